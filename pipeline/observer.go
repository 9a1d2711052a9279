package pipeline

import "time"

// Op names the operation that an [Event] reports.
type Op string

// The operations. Records is the number of records of the batch or promotion.
const (
	OpLease     Op = "lease"     // a batch was leased; Duration includes the wait for it
	OpTransform Op = "transform" // the chain has run over a batch
	OpStage     Op = "stage"     // a batch was copied into staging
	OpHandoff   Op = "handoff"   // a batch now waits for promotion
	OpRelease   Op = "release"   // a batch was given back; Err holds the reason
	OpPromote   Op = "promote"   // staged batches were promoted; Rows went into the target
	OpAck       Op = "ack"       // promoted batches were acknowledged; Records is the number of batches
	OpReconcile Op = "reconcile" // handed-off batches were compared with Postgres; Records is the number of batches redelivered
	OpRefresh   Op = "refresh"   // views were refreshed
)

// Event is one step that a worker or promoter performed, or failed to perform.
type Event struct {
	Op       Op
	Batch    string // id; empty where the step concerns several batches
	Records  int
	Rows     int64
	Duration time.Duration
	Err      error
}

// Observer receives an event for each step of a worker or promoter. It is called inline, from
// several goroutines: it must be quick and safe for concurrent use.
type Observer interface{ Observe(Event) }

// ObserverFunc makes an Observer of a function.
type ObserverFunc func(Event)

// Observe calls f.
func (f ObserverFunc) Observe(e Event) { f(e) }

func observe(o Observer, e Event) {
	if o != nil {
		o.Observe(e)
	}
}
