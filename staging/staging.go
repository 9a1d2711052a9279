package staging

import (
	"context"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/headrace/headrace/internal/uid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A Batch is a batch of records that the queue sealed. The id alone identifies it, so the id must
// never be used for other records.
type Batch struct {
	ID      string // UUIDv7
	Root    string // the batch in which these records were first sealed; "" means ID
	Offset  int    // index of the first record in the root batch
	Records int    // number of records
	Attempt int64  // for the ledger
	Worker  string // for the ledger
	Sealed  time.Time
}

// NewBatchID returns an id for a new batch: a UUIDv7, which contains the time. Never use an id for
// two batches.
func NewBatchID() string { return uid.New() }

// MaxRow bounds a row in bytes, as COPY carries it. A row that the target refuses is stored as JSON
// with its reason. JSON may take six bytes for one byte, and Postgres stores no value over 1 GiB: a
// larger row could neither be promoted nor rejected. A record with such a row is rejected with its
// payload from Load.Payloads; without that, Stage returns ErrLoad.
const MaxRow = 160 << 20

// MaxReason bounds the stored reason of a reject, and of a promotion that failed, in characters. A
// longer one is cut, because a trigger may raise a text of any length.
const MaxReason = 1000

// A Reject is a record, or a row of it, that does not go into the target.
type Reject struct {
	Pos     int32  // index of the record in the batch
	Key     string // the record's id in the dedup window; "" if unknown
	Code    string // for programs and stable: a word as in [Rule]; Stage converts any other text
	Reason  string // for people; stored up to MaxReason
	Payload []byte // the rejected record, or the row as JSON under the names of its columns
	Root    string // place in the root batch; filled when rejects are read
	Place   int    // Offset + Pos; filled when rejects are read
}

// A Load is a batch after all stages of a chain. Batch.Records must equal kept + Duplicates +
// Filtered + len(Rejects), where kept is the number of records that have rows.
type Load[T any] struct {
	Batch      Batch
	Rows       []T
	Pos        []int32 // Pos[i] is the record that made Rows[i]; nil: 0, 1, 2 …
	Rejects    []Reject
	Duplicates int
	Filtered   int
	// Payloads, if given, holds the batch's raw records by position. A row that Postgres cannot store
	// is rejected with its raw record. Without Payloads it is rejected with the row as JSON, under the
	// names of its columns. JSON cannot hold bytes that are not UTF-8: they become U+FFFD.
	Payloads [][]byte
	// Stages are the stages of the chain in their order, with what each dropped. The ledger keeps
	// them for [Table.StageCounts].
	Stages []StageDrops
	// Encoding, if set, is called with true before rows are encoded and with false afterwards.
	// Encoding runs Config.Fill and methods of the values. From the call with false to the next with
	// true, Stage waits for Postgres. An error of the call with true stops the COPY, and Stage
	// returns it.
	Encoding func(begins bool) error
}

// An Outcome is the result of Stage.
type Outcome uint8

// The outcomes of Stage.
const (
	OutcomeStaged          Outcome = iota + 1 // written now: hand the batch off
	OutcomeAlreadyStaged                      // written before: hand the batch off
	OutcomeAlreadyPromoted                    // committed: acknowledge the batch
	OutcomeAlreadyVoid                        // void: split or bury it, and never acknowledge it
)

// String returns the name of the outcome.
func (o Outcome) String() string {
	switch o {
	case OutcomeStaged:
		return "staged"
	case OutcomeAlreadyStaged:
		return "already staged"
	case OutcomeAlreadyPromoted:
		return "already promoted"
	case OutcomeAlreadyVoid:
		return "already void"
	}
	return "unknown outcome"
}

// A Fate is the state of a batch.
type Fate uint8

// The fates of a batch.
const (
	FateUnknown  Fate = iota // neither staged nor in the ledger: redeliver it
	FateStaged               // in a registry: leave it
	FatePromoted             // in the ledger: acknowledge it
	FateVoid                 // in the ledger as void: finish its split or burial
)

// String returns the name of the fate.
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
	// MaxRows bounds the rows of one transaction, in whole batches and at least one. Default
	// [DefaultMaxRows].
	MaxRows int
	Timeout time.Duration // of the whole call; 0: only ctx bounds it
	// Lane is the lane to promote, from 1 to [Table.Lanes]. 0: one that has staged batches and
	// where no promoter is at work. A group has no lanes and ignores it.
	Lane int
}

// A PromotedBatch is a batch that a promotion found in staging and settled.
type PromotedBatch struct {
	ID   string
	Fate Fate // FatePromoted (now or before): acknowledge it; FateVoid: finish its split or burial
}

// A PromoteResult is the result of one call of Promote. The counts are those of the batches that
// this call committed.
type PromoteResult struct {
	Batches []PromotedBatch
	// Mismatched batches were set aside because their staged rows differ from the registry's count:
	// redeliver them.
	Mismatched []string
	TooOld     []string // set aside, because they were sealed before the ledger's floor

	Records        int // records of the batches
	Kept           int // records that had rows
	Duplicates     int
	Filtered       int
	Rejected       int // records that were rejected before staging
	Rows           int // rows written into the target
	Conflicts      int // rows whose key already existed
	RejectedByRule int // rows that a rule or the target rejected

	// More is true if MaxRows left staged batches over, or if the other side, or with
	// PromoteOptions.Lane 0 another lane, held batches when the call began: call again at once.
	More  bool
	Epoch string // as of Table.Epoch
}

// Books sums the ledger. Records = Kept + Duplicates + Filtered + Rejected, and Staged = Rows +
// Conflicts + RejectedByRule.
type Books struct {
	Batches        int64 // promoted
	Void           int64
	Records        int64
	Kept           int64
	Duplicates     int64
	Filtered       int64
	Rejected       int64
	Staged         int64 // rows of the kept records
	Rows           int64 `db:"promoted"` // rows written into the target
	Conflicts      int64
	RejectedByRule int64 `db:"ruled"`
	// Pruned reports that the ledger no longer has some batches of the time asked for, and that their
	// sums are not in these. Sums over all of the past have what [Table.Prune] deleted. A time that
	// begins among the pruned batches has not, nor has a ledger that was pruned under an older layout.
	Pruned bool
}

// A Table stages and promotes rows of type T for one target. This type is concurrency safe.
type Table[T any] struct {
	table
	fill func(*T, *Row) // Config.Fill
	idBy func(*T) string
}

// table is all of a Table that does not know T. What has no T is defined on it, so that it is
// compiled once and not for each type of rows.
type table struct {
	pool *pgxpool.Pool
	cfg  tableConfig
	names
	wanted   []Column // as asked for
	fields   []field  // of T; nil with Config.Fill
	cols     []column // as found
	colNames []string
	lead     *column // which leads the key's index
	// all columns of the target, also those that a T does not fill
	targetColumns []string
	nullable      []string // columns of which a T may hold a NULL
	rules         []Rule
	sql           statements
	lane          []laneState   // at least one
	found         int           // lanes that the target had before New
	used          atomic.Int32  // lanes into which batches are staged, as this program last saw
	whole         chan struct{} // held by a promotion of several lanes that locks the target, see alone
	turns         atomic.Uint32 // calls of Promote that chose a lane
	pace          pace
	cutOffs       cutOffs      // batches whose COPY took too long
	unconfirmed   unconfirmed  // results of promotions that no standby has confirmed
	look          atomic.Int32 // how many further promotions look for each key before they insert
	guard         atomic.Int32 // how many further promotions insert in parts: a row was refused
	drops         atomic.Int32 // how many further promotions insert row by row: a trigger dropped a row
	recount       atomic.Int32 // how many further promotions insert batch by batch: a trigger changed keys
	noJudge       atomic.Bool  // no PL/pgSQL for this role, or a trigger raises what it cannot catch
	sizes         partSizes
	maxRow        int      // MaxRow, less in a test
	sequences     []string // of columns of the target that are left out
	functions     []calledFunction
	searchPath    string // of New

	hook func(point string) error // tests stop, fail or kill here
}

// New checks cfg and the target, and creates missing tables unless Config.NoCreate is set. It never
// closes the pool.
func New[T any](ctx context.Context, pool *pgxpool.Pool, target string, cfg Config[T]) (*Table[T], error) {
	t, err := newTable(pool, cfg)
	if err != nil {
		return nil, err
	}
	if err := t.installOn(ctx, pool, target); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Table[T]) installOn(ctx context.Context, pool *pgxpool.Pool, target string) error {
	conn, err := acquire(ctx, pool)
	if err != nil {
		return fmt.Errorf("staging: %w", err)
	}
	defer conn.Release()
	return t.install(ctx, conn.Conn(), target)
}

// newTable checks a configuration, without the server.
func newTable[T any](pool *pgxpool.Pool, cfg Config[T]) (*Table[T], error) {
	if pool == nil {
		return nil, fmt.Errorf("%w: pool is nil, must be a *pgxpool.Pool", ErrConfig)
	}
	u, err := cfg.untyped()
	if err != nil {
		return nil, err
	}
	if err := check(&u); err != nil {
		return nil, err
	}
	t := &Table[T]{fill: cfg.Fill, idBy: cfg.IDOf}
	t.pool, t.cfg, t.wanted, t.sizes = pool, u, u.Columns, defaultPartSizes
	t.maxRow = MaxRow
	if cfg.Fill == nil {
		fields, err := taggedFields(reflect.TypeFor[T]())
		if err != nil {
			return nil, err
		}
		t.fields = fields
		for i := range fields {
			t.wanted = append(t.wanted, fields[i].Column)
		}
	}
	for _, c := range t.wanted {
		if len(c.Name) > pgschema.MaxName {
			return nil, fmt.Errorf("%w: column %q has a name of %d bytes, must be at most %d: Postgres would cut it", ErrConfig, c.Name, len(c.Name), pgschema.MaxName)
		}
	}
	return t, nil
}

// Name returns the target's quoted name with its schema.
func (t *table) Name() string { return t.target }

// at runs the tests' hook.
func (t *table) at(point string) error {
	if t.hook == nil {
		return nil
	}
	return t.hook(point)
}

// rollback ends the transaction, if there is one, also after ctx is done.
func (t *table) rollback(q *pgx.Conn) {
	if q.IsClosed() || q.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	q.Exec(ctx, "rollback") //nolint:errcheck // a connection on which this fails is not used again
}
