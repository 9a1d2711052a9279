package pipeline

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/headrace/headrace/queue"
)

// waitDelay is how long the caller's code must have been left before Redis learns that the batch
// waits for Postgres. The usual batch is handed off before, so it pays nothing.
const waitDelay = 20 * time.Millisecond

// lease keeps a batch's lease alive and tells the queue whose code holds the batch. A worker that
// dies in the caller's code (the chain, the encoding of rows) leaves a suspect. One that dies while
// the batch waits for Postgres does not.
type lease struct {
	queue    Queue
	batch    *queue.Batch
	duration time.Duration
	timeout  time.Duration // for the caller's code, each time it is entered
	outage   *outage

	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{}

	mu      sync.Mutex
	entered time.Time   // when the caller's code was entered; zero: it is not running
	inside  bool        // process counts the batch as in the caller's code
	waiting bool        // as Redis knows
	settle  *time.Timer // tells Redis that the batch waits
	ending  bool        // the batch is being handed off or settled, which ends the lease
	ended   bool
}

// hold starts the heartbeat of a batch, whose context ends when the lease is lost or the caller's
// code takes too long, with that as its cause. Call end when done with the batch.
func (w *Worker[T]) hold(work context.Context, b *queue.Batch) *lease {
	l := &lease{
		queue: w.flow.Queue, batch: b, duration: w.cfg.LeaseDuration, timeout: w.cfg.BatchTimeout, outage: w.redis,
		done: make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancelCause(work)
	l.settle = time.AfterFunc(time.Hour, l.markWaiting)
	l.settle.Stop()
	go l.beat()
	return l
}

func (l *lease) end() {
	l.cancel(nil)
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out()
	l.ended = true
	l.settle.Stop()
	l.outage.gone(l.batch.ID)
}

func (l *lease) beat() {
	defer close(l.done)
	tick := time.NewTicker(l.duration / 3)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
			if !l.extend() {
				return
			}
		}
	}
}

// extend extends the lease as what the batch is now. It reports whether the batch is still held.
func (l *lease) extend() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.entered.IsZero() && time.Since(l.entered) > l.timeout {
		l.cancel(errBatchTimeout)
		return false
	}
	return !errors.Is(l.tell(l.entered.IsZero()), queue.ErrLeaseLost)
}

// tell extends the lease and records whether the batch waits. Call it with mu held.
func (l *lease) tell(waiting bool) error {
	extend := l.queue.Extend
	if waiting {
		extend = l.queue.ExtendWaiting
	}
	err := extend(l.ctx, l.batch, l.duration)
	switch {
	case err == nil:
		l.waiting = waiting
		l.outage.succeeded(l.batch.ID)
	case errors.Is(err, queue.ErrLeaseLost):
		if !l.ending { // or else the call that ends the lease returns what became of it
			l.cancel(err)
		}
	case l.ctx.Err() == nil:
		l.outage.failed(l.batch.ID, err, "step", "extend", "batch", l.batch.ID)
	}
	return err
}

func (l *lease) markWaiting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended && l.ctx.Err() == nil && l.entered.IsZero() && !l.waiting {
		_ = l.tell(true)
	}
}

// enter is called before the caller's code runs. If the queue believes that the batch waits, it
// learns the opposite first: a record that kills its worker must be found. A batch that has to wait
// for its turn is marked as waiting.
func (l *lease) enter() error {
	if err := process.enter(l.ctx, l.suspect(), l.markWaiting); err != nil {
		return Unavailable(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out()
	l.inside = true
	l.settle.Stop()
	if l.waiting {
		if err := l.tell(false); err != nil {
			l.out()
			return Unavailable(err)
		}
	}
	l.entered = time.Now()
	return nil
}

func (l *lease) suspect() bool { return l.batch.Crashes > 0 }

// out is called with mu held.
func (l *lease) out() {
	if l.inside {
		process.leave(l.suspect())
		l.inside = false
	}
}

// leave is called when the caller's code has returned. A suspect is marked as waiting before
// another one may enter: that one may kill the process within waitDelay.
func (l *lease) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entered = time.Time{}
	switch {
	case l.waiting:
	case l.suspect():
		_ = l.tell(true)
	default:
		l.settle.Reset(waitDelay)
	}
	l.out()
}

// finish is called before the batch is handed off or settled. From then on a lost lease does not
// end the context: that call may be what ended the lease, and it must not be cut off before its
// answer.
func (l *lease) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ending = true
}

// encoding is the hook of staging around the encoding of rows.
func (l *lease) encoding(begins bool) error {
	if begins {
		if err := l.enter(); err != nil {
			return &leaseError{err}
		}
		return nil
	}
	l.leave()
	return nil
}

// leaseError is an error of the queue during staging. The lease has logged it.
type leaseError struct{ err error }

func (e *leaseError) Error() string { return e.err.Error() }
func (e *leaseError) Unwrap() error { return e.err }
