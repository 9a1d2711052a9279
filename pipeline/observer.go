package pipeline

import "time"

// Op is what an [Event] tells of.
type Op string

// The operations that are observed. Records is the number of records of the batch or promotion.
const (
	OpLease     Op = "lease"     // a batch was leased; Took includes the wait for it
	OpTransform Op = "transform" // the chain has run over a batch
	OpStage     Op = "stage"     // a batch was copied into staging
	OpHandoff   Op = "handoff"   // a batch now waits for promotion
	OpRelease   Op = "release"   // a batch was given back; Err says why
	OpPromote   Op = "promote"   // staged batches were promoted; Rows went into the target
	OpAck       Op = "ack"       // promoted batches were acknowledged; Records is the number of batches
	OpReconcile Op = "reconcile" // handed-off batches were compared with Postgres; Records is the number of batches redelivered
	OpRefresh   Op = "refresh"   // views were refreshed
)

// Event is one thing that a worker or promoter did, or failed to do.
type Event struct {
	Op       Op
	Batch    string // id; empty where it concerns several
	Records  int
	Rows     int64
	Duration time.Duration
	Err      error
}

// Observer is told of everything that a worker or promoter does. It is called from several goroutines, inline: it must be quick and safe for that.
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
