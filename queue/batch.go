package queue

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Batch is a sealed batch. Its records do not change from the lease that sealed it until it is
// acknowledged or split, so everything downstream can be idempotent by ID.
type Batch struct {
	// Queue is the name of the queue that holds the batch.
	Queue string
	// ID is a UUIDv7 that the client generated for the lease that sealed the batch. Its last 14 bits
	// are the cluster slot of the queue; 60 bits are random.
	ID string
	// Root and Offset are the place of the records: Payloads[i] has the place (Root, Offset+i),
	// through all splits, burial and requeue. A batch that was never split is its own root.
	Root   string
	Offset int
	// Attempt counts the leases of this batch. It is the fencing token of Extend, Handoff and Release.
	Attempt int64
	// Failures counts the failures that workers reported, Crashes the leases that expired.
	Failures, Crashes int
	// Reason is the last reported failure, truncated to MaxReason bytes.
	Reason string
	// Payloads are the records, oldest first. They must not be changed.
	Payloads [][]byte
	// Bytes is the sum of their lengths.
	Bytes int
	// All times are by the server's clock. Sealed is when the batch was sealed. Children of a split
	// inherit the root's seal time: a ledger that forgets by age must not consider a part younger than
	// the whole. A requeued record is sealed anew. FirstSeen is when the records were first sealed,
	// Deadline when the lease expires.
	Sealed, FirstSeen, Deadline time.Time
	// Guard is the key of the batch's metadata hash, which lives exactly as long as the batch. Fields
	// that begin with "r:" are annotations by other packages, one byte per record; a split gives each
	// child its part.
	Guard string
	// Annotated reports whether there are any.
	Annotated bool
}

// LeaseOptions are the settings of one lease. A zero field takes the queue's Config.Lease.
type LeaseOptions struct {
	Records, Bytes         int
	Linger, Idle, Duration time.Duration
	// Worker names the holder of the lease for operators. It is in BatchInfo, truncated to MaxWorker
	// bytes.
	Worker string
	// Settle is called before a batch that keeps failing is split or buried. nil: there is no ledger,
	// so a worker that still holds the batch may continue to use it.
	Settle SettleFunc
}

// ReleaseOptions are the options of Release.
type ReleaseOptions struct {
	// Delay is the time before the batch is redelivered. 0: at once, or after Config.Lease.Backoff if
	// there is a Failure.
	Delay time.Duration
	// Failure is the worker's error. It counts as a failure of the batch and is stored as its reason,
	// truncated to MaxReason bytes. "": nothing is counted, because the worker shuts down or Postgres
	// is unavailable.
	Failure string
}

// Undo is a compare-and-set in the same script as an acknowledgement or burial: if the string at
// Key contains Old at Offset, New overwrites those bytes. A missing key stays missing. Key must
// have the queue's hash tag.
type Undo struct {
	Key      string
	Offset   int64
	Old, New string
}

// Ack is a batch to acknowledge, with the undos to apply in the same step.
type Ack struct {
	ID   string
	Undo []Undo
}

// SettleFunc makes b void in the durable ledger, so that a worker that still holds b cannot get it
// promoted, or it reports that b is already promoted. The change must be durable before it returns.
// After an error the batch stays as it was and is settled later.
type SettleFunc func(ctx context.Context, b *Batch) (Resolution, error)

// Resolution is the state of a batch in the ledger. A promoted batch is acknowledged with Undo. A
// void one is split, or, if it holds one record, buried with Undo in the same script.
type Resolution struct {
	Promoted bool
	Undo     []Undo
}

// Fate is the state of a batch on the durable side.
type Fate uint8

// The fates of a batch, and what Reconcile does with it.
const (
	FateUnknown  Fate = iota // in no registry and not in the ledger: redelivered at once
	FateStaged               // in a registry: left as it is
	FatePromoted             // in the ledger as promoted: acknowledged
	FateVoid                 // in the ledger as void: split or buried
)

// FatesFunc returns the fate of each id, in the order of ids. It must read the registries first and
// then the ledger: in the other order, a promotion in between makes a batch look unknown.
type FatesFunc func(ctx context.Context, ids []string) ([]BatchFate, error)

// BatchFate is the fate of one batch. Undo goes with FatePromoted and FateVoid.
type BatchFate struct {
	Fate Fate
	Undo []Undo
}

// ReconcileResult counts what Reconcile did, in batches. Seen exceeds the sum of the others by
// those that failed, and by those that another process dealt with meanwhile.
type ReconcileResult struct {
	Seen        int // handed off when Reconcile read them
	Left        int // staged: left as they are
	Acked       int // promoted: acknowledged
	Settled     int // void: split or buried
	Redelivered int // unknown: back in the queue
}

// HandedOff is a batch that was handed off and is not yet acknowledged.
type HandedOff struct {
	ID      string
	Attempt int64
	Records int
	Since   time.Time // when it was handed off, by the server's clock
}

// DeadLetter is a record that was buried. Its ID is that of the batch that held it alone.
type DeadLetter struct {
	ID       string
	Payload  []byte
	Root     string
	Offset   int
	Reason   string // at most MaxReason bytes
	Attempts int64  // leases of every batch that held it
	Failures int    // reported while it was alone
	Crashes  int    // while it was alone
	FirstSeen,
	Died time.Time
}

// fill takes the payloads from a list as Redis has it: the oldest is at its right end.
func (b *Batch) fill(list []rueidis.RedisMessage) error {
	b.Payloads = make([][]byte, len(list))
	for i := range list {
		p, err := list[i].AsBytes()
		if err != nil {
			return wrap("read batch "+b.ID, err)
		}
		b.Payloads[len(list)-1-i] = p
		b.Bytes += len(p)
	}
	return nil
}

// describe takes the fields of the meta hash.
func (b *Batch) describe(meta map[string]string) {
	num := func(field string) int64 { n, _ := strconv.ParseInt(meta[field], 10, 64); return n }
	b.Root = cmp.Or(meta["root"], b.ID)
	b.Offset = int(num("off"))
	b.Failures = int(num("fails"))
	b.Crashes = int(num("crashes"))
	b.Reason = meta["reason"]
	b.Sealed = time.UnixMilli(num("sealed"))
	b.FirstSeen = time.UnixMilli(num("first"))
	for field := range meta {
		if strings.HasPrefix(field, "r:") {
			b.Annotated = true
		}
	}
}
