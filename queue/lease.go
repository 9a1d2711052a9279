package queue

import (
	"cmp"
	"context"
	"time"
)

// TryLease leases a batch, or returns ErrEmpty or ErrPaused without waiting for records. It never
// lingers. With 500 records or more it may wait for other leases of this Queue to be answered.
func (q *Queue) TryLease(ctx context.Context, o LeaseOptions) (*Batch, error) {
	o, err := q.options(o)
	if err != nil {
		return nil, err
	}
	l, err := q.take(ctx, o, 1)
	switch {
	case err != nil:
		return nil, err
	case l.batch != nil:
		return l.batch, nil
	case l.paused:
		return nil, ErrPaused
	}
	return nil, ErrEmpty
}

// Lease leases a batch: one that waits for redelivery, or a fresh one of the oldest records. It
// blocks until there is one or ctx is done. It takes one round trip, and one more for a redelivered
// batch.
//
// Cancelling ctx never loses a record. If the script has already run, Lease still returns the
// batch; if its reply is lost too, the lease expires. An error of the connection while the script
// runs is returned: call Lease again. The next call first gives back a batch that the failed one
// has leased.
func (q *Queue) Lease(ctx context.Context, o LeaseOptions) (*Batch, error) {
	o, err := q.options(o)
	if err != nil {
		return nil, err
	}
	least := 1
	if o.Linger > 0 {
		least = o.Records
	}
	if l, err := q.take(ctx, o, least); err != nil || l.batch != nil {
		return l.batch, err
	}
	return q.await(ctx, o, least)
}

// options fills in and checks o.
func (q *Queue) options(o LeaseOptions) (LeaseOptions, error) {
	l := q.cfg.Lease
	o.Records = cmp.Or(o.Records, l.Records)
	o.Bytes = cmp.Or(o.Bytes, l.Bytes)
	o.Linger = cmp.Or(o.Linger, l.Linger)
	o.Idle = cmp.Or(o.Idle, l.Idle)
	o.Duration = cmp.Or(o.Duration, l.Duration)
	for _, err := range []error{
		within("LeaseOptions.Records", o.Records, 1, MaxRecords),
		within("LeaseOptions.Bytes", o.Bytes, 1, MaxPayload),
		within("LeaseOptions.Linger", o.Linger, 0, maxLinger),
		within("LeaseOptions.Idle", o.Idle, 0, maxLinger),
		within("LeaseOptions.Duration", o.Duration, minDuration, maxLeaseDuration),
	} {
		if err != nil {
			return o, err
		}
	}
	return o, nil
}

// leased is what one call of the lease script gave: a batch, or why there is none.
type leased struct {
	batch  *Batch
	settle bool // the batch has failed too often: it was leased to be settled
	again  bool // call again at once
	paused bool
	ready  int           // records of the ready list
	next   time.Duration // until something comes due; negative: nothing will
}

// take leases a batch if there is one, with at least the given number of records if it is fresh. It
// settles the batches that it meets on the way.
func (q *Queue) take(ctx context.Context, o LeaseOptions, least int) (leased, error) {
	for {
		l, err := q.seal(ctx, o, least)
		if err != nil {
			return leased{}, err
		}
		if done, err := q.finish(ctx, o, l); done || err != nil {
			return l, err
		}
	}
}

// finish settles the batch of l if it must be settled. It reports whether l is the answer.
func (q *Queue) finish(ctx context.Context, o LeaseOptions, l leased) (bool, error) {
	if l.settle {
		return false, q.settleFailed(ctx, l.batch, o.Settle)
	}
	return !l.again, nil
}
