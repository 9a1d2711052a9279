package queue

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Extend is Queue.Extend. Like all calls below that take a batch, it goes to the shard of b.
func (s *Shards) Extend(ctx context.Context, b *Batch, d time.Duration) error {
	return s.on(b, func(q *Queue) error { return q.Extend(ctx, b, d) })
}

// ExtendWaiting is Queue.ExtendWaiting.
func (s *Shards) ExtendWaiting(ctx context.Context, b *Batch, d time.Duration) error {
	return s.on(b, func(q *Queue) error { return q.ExtendWaiting(ctx, b, d) })
}

// Handoff is Queue.Handoff.
func (s *Shards) Handoff(ctx context.Context, b *Batch) error {
	return s.on(b, func(q *Queue) error { return q.Handoff(ctx, b) })
}

// Release is Queue.Release.
func (s *Shards) Release(ctx context.Context, b *Batch, o ReleaseOptions) error {
	return s.on(b, func(q *Queue) error { return q.Release(ctx, b, o) })
}

// Settle is Queue.Settle.
func (s *Shards) Settle(ctx context.Context, b *Batch, x Resolution) error {
	return s.on(b, func(q *Queue) error { return q.Settle(ctx, b, x) })
}

func (s *Shards) on(b *Batch, f func(*Queue) error) error {
	if b == nil {
		return noBatch("a call of Shards")
	}
	q := s.Of(b)
	if q == nil {
		return fmt.Errorf("%w: batch %s is of queue %q, which is not a shard", ErrGone, shown(b.ID), shown(b.Queue))
	}
	return f(q)
}

// Get is Queue.Get.
func (s *Shards) Get(ctx context.Context, id string) (*Batch, error) {
	q := s.OfID(id)
	if q == nil {
		return nil, fmt.Errorf("%w: %s", ErrGone, shown(id))
	}
	return q.Get(ctx, id)
}

// Ack is Queue.Ack for batches of any shards.
func (s *Shards) Ack(ctx context.Context, ids ...string) (int, error) {
	acks := make([]Ack, len(ids))
	for i, id := range ids {
		acks[i].ID = id
	}
	return s.AckWith(ctx, acks...)
}

// AckWith is Queue.AckWith for batches of any shards. Each shard gets its own batches, all shards
// at once, so a batch costs the same however many shards there are. It skips batches of other
// queues. When a shard fails, the batches of the others are acknowledged anyway.
func (s *Shards) AckWith(ctx context.Context, acks ...Ack) (int, error) {
	parts := map[*Queue][]Ack{}
	for _, a := range acks {
		if q := s.OfID(a.ID); q != nil {
			parts[q] = append(parts[q], a)
		}
	}
	return sum(parts, func(q *Queue, part []Ack) (int, error) { return q.AckWith(ctx, part...) })
}

// HandedOff is Queue.HandedOff for all shards.
func (s *Shards) HandedOff(ctx context.Context) ([]HandedOff, error) {
	var mu sync.Mutex
	var all []HandedOff
	err := s.each(func(_ int, q *Queue) error {
		h, err := q.HandedOff(ctx)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, h...)
		return err
	})
	return all, err
}

// Reconcile reconciles every shard, all at once: known and settle must be safe for concurrent use.
// A failed shard does not stop the others.
func (s *Shards) Reconcile(ctx context.Context, known FatesFunc, settle SettleFunc) (ReconcileResult, error) {
	all := make([]ReconcileResult, len(s.queues))
	err := s.each(func(i int, q *Queue) (err error) {
		all[i], err = q.Reconcile(ctx, known, settle)
		return err
	})
	var total ReconcileResult
	for _, r := range all {
		total.Seen, total.Left, total.Acked = total.Seen+r.Seen, total.Left+r.Left, total.Acked+r.Acked
		total.Settled, total.Redelivered = total.Settled+r.Settled, total.Redelivered+r.Redelivered
	}
	return total, err
}

// Audit is Queue.Audit for each shard; the reports are in the order of Queues.
func (s *Shards) Audit(ctx context.Context) ([]AuditReport, error) {
	all := make([]AuditReport, len(s.queues))
	err := s.each(func(i int, q *Queue) (err error) {
		all[i], err = q.Audit(ctx)
		return err
	})
	return all, err
}

// Repair is Queue.Repair for each shard, all at once: settle must be safe for concurrent use. The
// reports are in the order of Queues. A failed shard does not stop the others.
func (s *Shards) Repair(ctx context.Context, settle SettleFunc) ([]RepairReport, error) {
	all := make([]RepairReport, len(s.queues))
	err := s.each(func(i int, q *Queue) (err error) {
		all[i], err = q.Repair(ctx, settle)
		return err
	})
	return all, err
}
