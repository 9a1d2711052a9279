package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// errNoAnswer marks the error of a call to a store that did not return in time.
var errNoAnswer = errors.New("pipeline: no answer")

// within bounds a call to a store. If the peer acknowledges every byte and never answers, nothing
// else ends the call.
func within(ctx context.Context, limit time.Duration, what string, call func(ctx context.Context) error) error {
	inner, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := call(inner)
	if err != nil && errors.Is(inner.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
		return Unavailable(fmt.Errorf("%w: %s took longer than %v: %w", errNoAnswer, what, limit, err))
	}
	return err
}

// patience is a limit that grows when it proves too short for a store that is slow and not silent:
// it doubles after each call that did not return in time, and shrinks after quick ones.
type patience struct {
	least, most time.Duration
	now         atomic.Int64 // a time.Duration
}

func newPatience(least, most time.Duration) *patience {
	p := &patience{least: least, most: max(least, most)}
	p.now.Store(int64(least))
	return p
}

func (p *patience) limit() time.Duration { return time.Duration(p.now.Load()) }

// learn adjusts the limit after a call.
func (p *patience) learn(limit, took time.Duration, late bool) {
	switch {
	case late:
		p.now.CompareAndSwap(int64(limit), int64(min(2*limit, p.most)))
	case took < limit/8:
		p.now.CompareAndSwap(int64(limit), int64(max(limit/2, p.least)))
	}
}

func (p *patience) within(ctx context.Context, what string, call func(ctx context.Context) error) error {
	limit, start := p.limit(), time.Now()
	err := within(ctx, limit, what, call)
	p.learn(limit, time.Since(start), errors.Is(err, errNoAnswer))
	return err
}

// boundedQueue gives every call of a queue a deadline. Lease has its own: it waits for records.
type boundedQueue struct {
	Queue
	limit, reconciling *patience
}

// errNoBatch reports a bug in a queue that is not one of package queue.
var errNoBatch = errors.New("pipeline: Lease of the queue returned no batch and no error")

func (q boundedQueue) Lease(ctx context.Context, o queue.LeaseOptions) (*queue.Batch, error) {
	b, err := q.Queue.Lease(ctx, o)
	if b == nil && err == nil {
		err = errNoBatch
	}
	return b, err
}

// Reconcile has a limit of its own: it reads all batches that are handed off.
func (q boundedQueue) Reconcile(ctx context.Context, fates queue.FatesFunc, settle queue.SettleFunc) (r queue.ReconcileResult, err error) {
	err = q.reconciling.within(ctx, "reconciling", func(ctx context.Context) error {
		r, err = q.Queue.Reconcile(ctx, fates, settle)
		return err
	})
	return r, err
}

func (q boundedQueue) Extend(ctx context.Context, b *queue.Batch, d time.Duration) error {
	return q.limit.within(ctx, "extending a lease", func(ctx context.Context) error { return q.Queue.Extend(ctx, b, d) })
}

func (q boundedQueue) ExtendWaiting(ctx context.Context, b *queue.Batch, d time.Duration) error {
	return q.limit.within(ctx, "extending a lease", func(ctx context.Context) error { return q.Queue.ExtendWaiting(ctx, b, d) })
}

func (q boundedQueue) Handoff(ctx context.Context, b *queue.Batch) error {
	return q.limit.within(ctx, "handing off a batch", func(ctx context.Context) error { return q.Queue.Handoff(ctx, b) })
}

func (q boundedQueue) Release(ctx context.Context, b *queue.Batch, o queue.ReleaseOptions) error {
	return q.limit.within(ctx, "releasing a batch", func(ctx context.Context) error { return q.Queue.Release(ctx, b, o) })
}

func (q boundedQueue) Stats(ctx context.Context) (s queue.Stats, err error) {
	err = q.limit.within(ctx, "reading the queue's counts", func(ctx context.Context) error {
		s, err = q.Queue.Stats(ctx)
		return err
	})
	return s, err
}

func (q boundedQueue) Settle(ctx context.Context, b *queue.Batch, s queue.Resolution) error {
	return q.limit.within(ctx, "settling a batch", func(ctx context.Context) error { return q.Queue.Settle(ctx, b, s) })
}

func (q boundedQueue) AckWith(ctx context.Context, acks ...queue.Ack) (n int, err error) {
	err = q.limit.within(ctx, "acknowledging batches", func(ctx context.Context) error {
		n, err = q.Queue.AckWith(ctx, acks...)
		return err
	})
	return n, err
}

// boundedTable gives every call of a table a deadline.
type boundedTable[T any] struct {
	Table[T]
	limit, staging, promoting *patience
}

func (t boundedTable[T]) Stage(ctx context.Context, l staging.Load[T]) (o staging.Outcome, err error) {
	err = t.staging.within(ctx, "staging a batch", func(ctx context.Context) error {
		o, err = t.Table.Stage(ctx, l)
		return err
	})
	return o, err
}

func (t boundedTable[T]) Void(ctx context.Context, b staging.Batch) (f staging.Fate, err error) {
	err = t.limit.within(ctx, "voiding a batch", func(ctx context.Context) error {
		f, err = t.Table.Void(ctx, b)
		return err
	})
	return f, err
}

func (t boundedTable[T]) Fates(ctx context.Context, ids []string) (f []staging.Fate, err error) {
	err = t.limit.within(ctx, "reading the fates of batches", func(ctx context.Context) error {
		f, err = t.Table.Fates(ctx, ids)
		return err
	})
	return f, err
}

// keyReader is a Table that can read rejects without their payloads, which may be large. An
// acknowledgement needs their keys and places only.
type keyReader interface {
	RejectedKeys(ctx context.Context, ids []string) (map[string][]staging.Reject, error)
}

func (t boundedTable[T]) RejectsByBatch(ctx context.Context, ids []string) (r map[string][]staging.Reject, err error) {
	err = t.limit.within(ctx, "reading rejects", func(ctx context.Context) error {
		read := t.Table.RejectsByBatch
		if keys, ok := t.Table.(keyReader); ok {
			read = keys.RejectedKeys
		}
		r, err = read(ctx, ids)
		return err
	})
	return r, err
}

func (t boundedTable[T]) Epoch(ctx context.Context) (e string, err error) {
	err = t.limit.within(ctx, "reading the epoch", func(ctx context.Context) error {
		e, err = t.Table.Epoch(ctx)
		return err
	})
	return e, err
}

// promoteSlack is what a promotion may take beyond its own timeout, to give up in good order.
const promoteSlack = 2 * time.Second

// Promote bounds a promotion by its own timeout, after which the next one takes fewer rows.
func (t boundedTable[T]) Promote(ctx context.Context, o staging.PromoteOptions) (p staging.PromoteResult, err error) {
	limit, start := o.Timeout, time.Now()
	if limit == 0 {
		limit = t.promoting.limit()
		o.Timeout = limit
		defer func() {
			took := time.Since(start)
			t.promoting.learn(limit, took, err != nil && took >= limit)
		}()
	}
	err = within(ctx, limit+promoteSlack, "a promotion", func(ctx context.Context) error {
		p, err = t.Table.Promote(ctx, o)
		return err
	})
	return p, err
}

// Limits that a store which is slow and not silent can reach.
const (
	mostCallTimeout    = 2 * time.Minute
	mostPromoteTimeout = time.Hour
)

// bounded returns the flow with a deadline for every call to its stores.
func (f Flow[T]) bounded(call, batch time.Duration) Flow[T] {
	f.Queue = boundedQueue{f.Queue, newPatience(call, mostCallTimeout), newPatience(call, mostPromoteTimeout)}
	// A promotion may first wait for the lock and then disconnect a worker that is stalled.
	promoting := newPatience(call+call/2, mostPromoteTimeout)
	f.Table = boundedTable[T]{f.Table, newPatience(call, mostCallTimeout), newPatience(call, batch), promoting}
	return f
}
