package pipeline

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// Op names the operation that an [Event] reports.
type Op string

// The operations.
const (
	OpLease     Op = "lease"     // a batch was leased; Duration includes the wait for it
	OpTransform Op = "transform" // the chain has run over a batch; Stages has its parts
	OpStage     Op = "stage"     // a batch was copied into staging
	OpHandoff   Op = "handoff"   // a batch now waits for promotion
	OpRelease   Op = "release"   // a batch was released or lost; Err holds the reason
	OpPromote   Op = "promote"   // staged batches were promoted; Rows went into the target
	OpAck       Op = "ack"       // promoted batches were acknowledged
	OpReconcile Op = "reconcile" // handed-off batches were compared with Postgres
	OpRefresh   Op = "refresh"   // views were refreshed
	OpPrune     Op = "prune"     // Batches were deleted from the ledger
	OpStuck     Op = "stuck"     // a step fails again and again; see Event.Failures and Event.Since
	OpRecovered Op = "recovered" // the step works again
)

// Event is one step that a worker or promoter performed, or failed to perform. A field that does
// not apply to the step is zero.
type Event struct {
	Op      Op
	At      time.Time // when the step ended
	Queue   string    // name of the queue
	Program string    // name of the worker or promoter
	Batch   string    // id; empty where the step concerns several batches
	Attempt int64     // of the batch
	// IDs are the batches that OpPromote found, or that OpAck acknowledged, if there are several.
	IDs []string
	// Batches, Records and Rows count what the step concerned; the Batches of OpReconcile were
	// redelivered.
	Batches int
	Records int
	Rows    int64
	// Duplicates, Filtered and Rejected are records that the chain dropped. OpTransform counts those
	// of an attempt, OpPromote those that are committed.
	Duplicates, Filtered, Rejected int
	// Codes counts the rejected records of OpTransform by code.
	Codes map[string]int
	// Conflicts and RejectedByRule are rows of OpPromote that did not go into the target.
	Conflicts, RejectedByRule int
	// Stages are the parts of OpTransform, in order.
	Stages []StageEvent
	// InProgress is the total of the batches that the worker holds.
	InProgress InProgress
	// Step names the step that fails in OpStuck or works again in OpRecovered, such as "promoting".
	// Failures counts the failures, which began at Since. OpStuck comes at growing intervals.
	Step     string
	Failures int
	Since    time.Time
	Duration time.Duration
	Err      error
	// Missed is how many events before this one were dropped, because the observer was too slow.
	Missed int
}

// StageEvent is the part of one stage in the run of a chain over a batch.
type StageEvent struct {
	Name     string
	In, Out  int // values
	Duration time.Duration
}

// InProgress is the work that a worker holds: batches that were leased and neither handed off nor
// released.
type InProgress struct {
	Batches, Records, Bytes int
}

// Observer receives an event for each step of a worker or promoter. ctx carries the values of the
// context of Run, and is not canceled. While Run is in progress, calls come from a separate
// goroutine, so a slow observer delays no work: when [EventBuffer] events are waiting, further ones
// are dropped and counted in Event.Missed. Run returns after the last event. If one call takes
// longer than [ObserverTimeout] at the end of Run, Run returns without it; then the events that
// wait may still come while another Run is in progress. A method that is called by hand, such as
// [Promoter.Promote], calls the observer inline.
type Observer interface {
	Observe(ctx context.Context, e Event)
}

const (
	// EventBuffer is how many events may wait for an observer.
	EventBuffer = 1024
	// ObserverTimeout is how long Run waits at its end while an observer takes no further event.
	ObserverTimeout = 5 * time.Second
)

// ObserverFunc makes an Observer of a function.
type ObserverFunc func(ctx context.Context, e Event)

// Observe calls f.
func (f ObserverFunc) Observe(ctx context.Context, e Event) { f(ctx, e) }

// events passes events on to an observer, which may be nil.
type events struct {
	observer       Observer
	queue, program string
	timeout        time.Duration // ObserverTimeout; shorter in tests

	mu      sync.Mutex
	waiting chan Event // nil: no Run is in progress
	missed  int
}

// start begins to call the observer concurrently with the work. Call the returned function at the
// end.
func (s *events) start(ctx context.Context) (stop func()) {
	if s.observer == nil {
		return func() {}
	}
	ctx = context.WithoutCancel(ctx)
	waiting, done := make(chan Event, EventBuffer), make(chan struct{})
	s.mu.Lock()
	s.waiting = waiting
	s.mu.Unlock()
	observed := make(chan struct{}, 1)
	go func() {
		defer close(done)
		for e := range waiting {
			s.observer.Observe(ctx, e)
			poke(observed)
		}
	}()
	return func() {
		s.mu.Lock()
		s.waiting = nil
		s.mu.Unlock()
		close(waiting)
		for t := time.NewTimer(s.patience()); ; t.Reset(s.patience()) {
			select {
			case <-done:
				t.Stop()
				return
			case <-observed:
			case <-t.C:
				return // the observer blocks; nothing can stop it
			}
		}
	}
}

// patience is how long stop waits for the next event to be taken.
func (s *events) patience() time.Duration { return cmp.Or(s.timeout, ObserverTimeout) }

// emit passes an event on.
func (s *events) emit(ctx context.Context, e Event) {
	if s.observer == nil {
		return
	}
	e.At, e.Queue, e.Program = time.Now(), s.queue, s.program
	s.mu.Lock()
	if s.waiting == nil {
		s.mu.Unlock()
		s.observer.Observe(context.WithoutCancel(ctx), e)
		return
	}
	defer s.mu.Unlock()
	e.Missed = s.missed
	select {
	case s.waiting <- e:
		s.missed = 0
	default:
		s.missed++
	}
}
