package staging

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A Batch is what the queue sealed: its id decides everything here, so it must never be used for other records.
type Batch struct {
	ID      string // UUIDv7
	Root    string // the batch that these records were sealed in first; "" means ID
	Offset  int    // index of the first record in the root batch
	Records int    // number of records
	Attempt int64  // for the ledger
	Worker  string // for the ledger
	Sealed  time.Time
}

// A Reject is a record, or a row of it, that does not go into the target.
type Reject struct {
	Pos     int32  // index of the record in the batch
	Key     string // the record's id in the dedup window; "" if it is not known
	Code    string // stable, for programs
	Reason  string // for people
	Payload []byte // what was rejected
	Root    string // place in the root batch; filled when rejects are read
	Place   int    // Offset + Pos; filled when rejects are read
}

// A Load is a batch with what the stages made of it. Records must equal kept + Duplicates + Filtered + len(Rejects),
// where kept is the number of records that have rows.
type Load[T any] struct {
	Batch      Batch
	Rows       []T
	Pos        []int32 // Pos[i] is the record that made Rows[i]; nil: 0, 1, 2 …
	Rejects    []Reject
	Duplicates int
	Filtered   int
	// Payloads, if given, holds the batch's raw records by position: a row that Postgres cannot take is rejected with
	// its raw record. Otherwise with the row as JSON.
	Payloads [][]byte
}

// An Outcome says what Stage found or did.
type Outcome uint8

// The outcomes of Stage.
const (
	Staged          Outcome = iota + 1 // written now: hand the batch off
	AlreadyStaged                      // written before: hand the batch off
	AlreadyPromoted                    // committed: acknowledge the batch
	AlreadyVoid                        // declared void: finish its split or burial, never acknowledge it
)

func (o Outcome) String() string {
	switch o {
	case Staged:
		return "staged"
	case AlreadyStaged:
		return "already staged"
	case AlreadyPromoted:
		return "already promoted"
	case AlreadyVoid:
		return "already void"
	}
	return "unknown outcome"
}

// A Fate says where a batch is.
type Fate uint8

// The fates of a batch.
const (
	FateUnknown  Fate = iota // neither staged nor in the ledger: deliver it again
	FateStaged               // in a registry: leave it
	FatePromoted             // in the ledger: acknowledge it
	FateVoid                 // in the ledger as void: finish its split or burial
)

func (f Fate) String() string {
	switch f {
	case FateStaged:
		return "staged"
	case FatePromoted:
		return "promoted"
	case FateVoid:
		return "void"
	}
	return "unknown"
}

// PromoteOptions bound one promotion.
type PromoteOptions struct {
	MaxRows int           // rows of one transaction, in whole batches (at least one batch); default 1,000,000
	Timeout time.Duration // of the whole call; 0: only ctx bounds it
}

// Promoted is a batch that a promotion found in staging and settled.
type Promoted struct {
	ID   string
	Fate Fate // FatePromoted (now or before): acknowledge it; FateVoid: finish its split or burial
}

// A Promotion says what one call of Promote did. The counts are those of the batches that it committed itself.
type Promotion struct {
	Batches    []Promoted
	Mismatched []string // put aside, because staged rows differ from the registry's count: deliver them again
	TooOld     []string // put aside, because they were sealed before the ledger's floor

	Records    int // records of the batches
	Kept       int // records that had rows
	Duplicates int
	Filtered   int
	Rejected   int // records that were rejected before staging
	Rows       int // rows written into the target
	Conflicts  int // rows whose key was there already
	Ruled      int // rows that a rule rejected

	More  bool   // more is staged than MaxRows let through: call again at once
	Epoch string // as of Table.Epoch
}

// Books sums the ledger. Records = Kept + Duplicates + Filtered + Rejected; Staged = Rows + Conflicts + Ruled.
type Books struct {
	Batches    int64 // promoted
	Void       int64
	Records    int64
	Kept       int64
	Duplicates int64
	Filtered   int64
	Rejected   int64
	Staged     int64 // rows that the kept records made
	Rows       int64 // rows written into the target
	Conflicts  int64
	Ruled      int64
}

// A Table stages and promotes rows of type T for one target. This type is concurrency safe.
type Table[T any] struct {
	pool *pgxpool.Pool
	cfg  Config[T]
}

var errTodo = errors.New("staging: not written yet")

// New checks cfg and the target, and creates what is missing. The pool stays the caller's.
func New[T any](ctx context.Context, pool *pgxpool.Pool, target string, cfg Config[T]) (*Table[T], error) {
	return nil, errTodo
}

// Stage writes a batch into staging, idempotently by batch id.
func (t *Table[T]) Stage(ctx context.Context, l Load[T]) (Outcome, error) { return 0, errTodo }

// StageTx is Stage inside a transaction of the caller's: the batch is staged when that commits.
func (t *Table[T]) StageTx(ctx context.Context, tx pgx.Tx, l Load[T]) (Outcome, error) {
	return 0, errTodo
}

// Void commits b as void, durably, or answers FatePromoted.
func (t *Table[T]) Void(ctx context.Context, b Batch) (Fate, error) { return 0, errTodo }

// Fates says where batches are, in the order of ids.
func (t *Table[T]) Fates(ctx context.Context, ids []string) ([]Fate, error) { return nil, errTodo }

// Rejected reads, from the durable rejects table, the records of promoted batches whose claims may be given back:
// those of which every row was rejected. By batch id.
func (t *Table[T]) Rejected(ctx context.Context, ids []string) (map[string][]Reject, error) {
	return nil, errTodo
}

// Promote moves staged batches into the target. With nothing staged it returns an empty Promotion.
func (t *Table[T]) Promote(ctx context.Context, o PromoteOptions) (Promotion, error) {
	return Promotion{}, errTodo
}

// Epoch returns the marker of the UNLOGGED tables; a new value says that a crash has emptied staging.
func (t *Table[T]) Epoch(ctx context.Context) (string, error) { return "", errTodo }

// Books sums the ledger of batches committed since.
func (t *Table[T]) Books(ctx context.Context, since time.Time) (Books, error) {
	return Books{}, errTodo
}
