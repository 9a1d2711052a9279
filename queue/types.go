package queue

import (
	"context"
	"time"
)

// Batch is a sealed batch: its records never change from the lease that sealed it until it is
// acknowledged or split, so everything downstream may be made idempotent by ID.
type Batch struct {
	// Queue is the name of the queue that holds the batch.
	Queue string
	// ID is a UUIDv7 made by the client for the one lease that sealed the batch.
	ID string
	// Root and Offset say where the records come from: Payloads[i] has the place (Root, Offset+i),
	// through all splits, burial and requeue. A batch that was never split is its own root.
	Root   string
	Offset int
	// Attempt counts the leases of this batch; it is the fencing token of Extend, Handoff and Release.
	Attempt int64
	// Failures counts what workers reported, Crashes the leases that ran out.
	Failures, Crashes int
	// Reason is the last reported failure.
	Reason string
	// Payloads are the records, oldest first. They must not be changed.
	Payloads [][]byte
	// Bytes is the sum of their lengths.
	Bytes int
	// Sealed is when this batch was sealed, or the one that it was split off: a ledger that forgets by age must
	// not take a part for younger than the whole. A requeued record is sealed anew. FirstSeen is when its records were first sealed, Deadline
	// when the lease ends: all by the server's clock.
	Sealed, FirstSeen, Deadline time.Time
	// Guard is the key of the batch's meta hash. It lives exactly as long as the batch. Its fields
	// that begin with "r:" are annotations of others, one byte a record; a split hands each child its part.
	Guard string
	// Annotated says whether there are any.
	Annotated bool
}

// LeaseOptions are the settings of one Lease; a zero field takes the queue's Config.Lease.
type LeaseOptions struct {
	Records, Bytes   int
	Linger, Duration time.Duration
	// Settle is asked before a batch that keeps failing is split or buried. nil: there is no ledger
	// to make it void in, and a worker that still holds the batch may yet use it.
	Settle SettleFunc
}

// ReleaseOptions say how a batch goes back.
type ReleaseOptions struct {
	// Delay before it is delivered again. 0: at once, or, after a Failure, by Config.Lease.Backoff.
	Delay time.Duration
	// Failure is what the worker has against the batch; it counts as a failure and is kept as the
	// reason. "" counts as nothing: the worker is shutting down, or Postgres is away.
	Failure string
}

// Undo is a compare-and-set done in the same script as an acknowledgement or burial: where the string Key has Old at
// Offset, the bytes there are overwritten with New. A key that is not there stays away. Key must wear the queue's hash tag.
type Undo struct {
	Key      string
	Offset   int64
	Old, New string
}

// Ack names a batch to be acknowledged, and what goes with it.
type Ack struct {
	ID   string
	Undo []Undo
}

// Settle makes the id of b void in the durable ledger, so that no worker which still holds b can get
// it promoted, or says that b is promoted already. It must be durable before it returns. An error leaves
// the batch as it was, to be tried again later.
type SettleFunc func(ctx context.Context, b *Batch) (Resolution, error)

// Resolution is what the ledger says of a batch. Promoted: it is acknowledged, with Undo. Otherwise it
// is void: it is split, or, when it holds one record, buried with Undo in the same script.
type Resolution struct {
	Promoted bool
	Undo     []Undo
}

// Fate is what the durable side knows of a batch.
type Fate uint8

// The fates.
const (
	FateUnknown  Fate = iota // in no registry and not in the ledger: redeliver it at once
	FateStaged               // in a registry: leave it
	FatePromoted             // in the ledger as promoted: acknowledge it
	FateVoid                 // in the ledger as void: finish its split or burial
)

// Known says what is known of each of ids, in their order. It must read the registries first, then the
// ledger: the other way round a promotion in between makes a batch look unknown.
type FatesFunc func(ctx context.Context, ids []string) ([]BatchFate, error)

// Settled is the fate of one batch; Undo goes with FatePromoted.
type BatchFate struct {
	Fate Fate
	Undo []Undo
}

// ReconcileResult counts what Reconcile did, in batches.
type ReconcileResult struct {
	Seen, Left, Acked, Settled, Redelivered int
}

// Handed is a batch that was handed off and is not yet acknowledged.
type HandedOff struct {
	ID      string
	Attempt int64
	Records int
	Since   time.Time // when it was handed off
}

// Dead is a record that was buried. Its ID is that of the batch it was alone in.
type DeadLetter struct {
	ID       string
	Payload  []byte
	Root     string
	Offset   int
	Reason   string
	Attempts int64 // leases of every batch that held it
	Failures int   // reported while it was alone
	Crashes  int   // while it was alone
	FirstSeen,
	Died time.Time
}

// Stats are the books of a queue, read in one step: Taken = Acked + InFlight + Dead + Discarded.
// A requeue moves a record from Dead to InFlight.
type Stats struct {
	Ready     int64 // records in the ready list
	Delayed   int64 // records pushed for later
	InFlight  int64 // records in sealed batches: leased, waiting for redelivery, or handed off
	HandedOff int64 // of these, records handed off
	Dead      int64 // records in the dead list

	LeasedBatches, WaitingBatches, HandedOffBatches int64 // sealed batches by state

	Taken     int64 // records ever sealed
	Acked     int64 // records acknowledged
	Discarded int64 // dead records dropped by hand

	Redelivered int64 // records delivered again, counted each time
	Requeued    int64 // dead records requeued, counted each time
	Splits      int64 // batches split

	// OldestAge is how long the oldest record in flight has been so. Records that are ready carry no time.
	OldestAge time.Duration
	Paused    bool
}

// Depth is what is not yet settled: ready, delayed and in flight.
func (s Stats) Depth() int64 { return s.Ready + s.Delayed + s.InFlight }

// Off says by how many records the books are off: 0.
func (s Stats) Imbalance() int64 { return s.Taken - s.Acked - s.InFlight - s.Dead - s.Discarded }
