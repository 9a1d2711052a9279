package pipelinetest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/queue"
)

// Queue is a queue in memory. It implements pipeline.Queue and is safe for concurrent use.
type Queue struct {
	// MaxFailures and MaxCrashes are those of queue.LeaseConfig. Set them before the first lease.
	MaxFailures, MaxCrashes int

	name   string
	mu     sync.Mutex
	wake   chan struct{} // closed and replaced when there may be something to lease
	ready  [][]byte
	held   map[string]*held
	order  []string // of the batches, oldest first
	dead   []queue.DeadLetter
	stats  queue.Stats
	window *Window
}

type state uint8

const (
	stateWaiting state = iota // for redelivery
	stateLeased
	stateSettling
	stateHandedOff
)

type held struct {
	batch   queue.Batch
	state   state
	waiting bool // the worker waits for the durable side
	since   time.Time
}

// NewQueue returns an empty queue.
func NewQueue(name string) *Queue {
	return &Queue{name: name, MaxFailures: queue.DefaultMaxFailures, MaxCrashes: queue.DefaultMaxCrashes, wake: make(chan struct{}), held: map[string]*held{}}
}

// Name returns the name of the queue.
func (q *Queue) Name() string { return q.name }

// Push appends records.
func (q *Queue) Push(_ context.Context, payloads ...[]byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range payloads {
		q.ready = append(q.ready, slices.Clone(p))
	}
	q.notify()
	return nil
}

func (q *Queue) notify() {
	close(q.wake)
	q.wake = make(chan struct{})
}

// Lease leases a batch: one that waits for redelivery, or a fresh one of the oldest records. It
// waits until there is one or ctx is done.
func (q *Queue) Lease(ctx context.Context, o queue.LeaseOptions) (*queue.Batch, error) {
	if o.Records < 0 {
		return nil, fmt.Errorf("%w: LeaseOptions.Records is %d, must not be negative", queue.ErrConfig, o.Records)
	}
	if o.Records == 0 {
		o.Records = queue.DefaultRecords
	}
	if o.Duration == 0 {
		o.Duration = queue.DefaultLeaseDuration
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		q.mu.Lock()
		wake, now := q.wake, time.Now()
		b, settle, next := q.next(now, o)
		q.mu.Unlock()
		if settle {
			if err := q.settleOver(ctx, b, o.Settle); err != nil {
				return nil, err
			}
			continue
		}
		if b != nil {
			return b, nil
		}
		timer := time.NewTimer(max(next.Sub(now), time.Millisecond))
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// next takes the next batch. Without one it returns when the next lease expires.
func (q *Queue) next(now time.Time, o queue.LeaseOptions) (b *queue.Batch, settle bool, next time.Time) {
	next = now.Add(time.Second)
	for _, id := range q.order {
		h := q.held[id]
		if (h.state == stateLeased || h.state == stateSettling) && !h.batch.Deadline.After(now) {
			if h.state == stateLeased && !h.waiting {
				h.batch.Crashes++
			}
			h.state = stateWaiting
		}
		if h.state == stateLeased && h.batch.Deadline.Before(next) {
			next = h.batch.Deadline
		}
	}
	for _, id := range q.order {
		if h := q.held[id]; h.state == stateWaiting {
			h.batch.Attempt++
			h.batch.Deadline, h.waiting, h.state = now.Add(o.Duration), false, stateLeased
			settle = h.batch.Failures >= q.MaxFailures || h.batch.Crashes >= q.MaxCrashes
			if settle {
				h.state = stateSettling
			} else {
				q.stats.Redelivered += int64(len(h.batch.Payloads))
			}
			out := h.batch
			return &out, settle, next
		}
	}
	if n := min(len(q.ready), o.Records); n > 0 {
		id := uid.New()
		h := &held{state: stateLeased, batch: queue.Batch{
			Queue: q.name, ID: id, Root: id, Attempt: 1, Payloads: slices.Clone(q.ready[:n]), Guard: q.guard(id),
			Sealed: now, FirstSeen: now, Deadline: now.Add(o.Duration),
		}}
		for _, p := range h.batch.Payloads {
			h.batch.Bytes += len(p)
		}
		q.ready = q.ready[n:]
		q.add(h)
		q.stats.Taken += int64(n)
		out := h.batch
		return &out, false, next
	}
	return nil, false, next
}

func (q *Queue) guard(id string) string { return "{" + q.name + "}:" + id }

func (q *Queue) add(h *held) {
	q.held[h.batch.ID] = h
	q.order = append(q.order, h.batch.ID)
}

func (q *Queue) remove(id string) {
	delete(q.held, id)
	q.order = slices.DeleteFunc(q.order, func(x string) bool { return x == id })
}

var errNilBatch = fmt.Errorf("%w: the batch is nil, must come from Lease", queue.ErrConfig)

// own returns the batch if b still holds its lease.
func (q *Queue) own(b *queue.Batch, s state) (*held, error) {
	if b == nil {
		return nil, errNilBatch
	}
	h := q.held[b.ID]
	if h == nil || h.state != s || h.batch.Attempt != b.Attempt {
		return nil, fmt.Errorf("%w: batch %s, attempt %d", queue.ErrLeaseLost, b.ID, b.Attempt)
	}
	return h, nil
}

// Extend extends the lease of b.
func (q *Queue) Extend(_ context.Context, b *queue.Batch, d time.Duration) error {
	return q.extend(b, d, false)
}

// ExtendWaiting extends the lease of b, which waits for the durable side.
func (q *Queue) ExtendWaiting(_ context.Context, b *queue.Batch, d time.Duration) error {
	return q.extend(b, d, true)
}

func (q *Queue) extend(b *queue.Batch, d time.Duration, waiting bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	h, err := q.own(b, stateLeased)
	if err == nil {
		h.batch.Deadline, h.waiting = time.Now().Add(d), waiting
	}
	return err
}

// Handoff passes the lease of b to the promoter.
func (q *Queue) Handoff(_ context.Context, b *queue.Batch) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	h, err := q.own(b, stateLeased)
	if err == nil {
		h.state, h.since = stateHandedOff, time.Now()
	}
	return err
}

// Release gives b back, to be delivered again at once.
func (q *Queue) Release(_ context.Context, b *queue.Batch, o queue.ReleaseOptions) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	h, err := q.own(b, stateLeased)
	if err != nil {
		return err
	}
	if o.Failure != "" {
		h.batch.Failures++
		h.batch.Reason = o.Failure
	}
	h.state = stateWaiting
	q.notify()
	return nil
}

// AckWith removes batches, and applies the undos of each.
func (q *Queue) AckWith(_ context.Context, acks ...queue.Ack) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, a := range acks {
		h := q.held[a.ID]
		if h == nil {
			continue
		}
		q.undo(a.Undo)
		q.remove(a.ID)
		q.stats.Acked += int64(len(h.batch.Payloads))
		n++
	}
	return n, nil
}

func (q *Queue) undo(undo []queue.Undo) {
	if q.window != nil {
		q.window.undo(undo)
	}
}

// Settle finishes what the ledger states about b: promoted or void.
func (q *Queue) Settle(ctx context.Context, b *queue.Batch, s queue.Resolution) error {
	if b == nil {
		return errNilBatch
	}
	if s.Promoted {
		_, err := q.AckWith(ctx, queue.Ack{ID: b.ID, Undo: s.Undo})
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if h := q.held[b.ID]; h != nil {
		q.split(h, s.Undo)
		q.notify()
	}
	return nil
}

// split replaces a batch by √n children, or buries its only record.
func (q *Queue) split(h *held, undo []queue.Undo) {
	b := h.batch
	q.remove(b.ID)
	n := len(b.Payloads)
	if n == 1 {
		q.undo(undo)
		reason := b.Reason
		if reason == "" {
			reason = fmt.Sprintf("its lease expired %d times", b.Crashes)
		}
		q.dead = append(q.dead, queue.DeadLetter{
			ID: b.ID, Payload: b.Payloads[0], Root: b.Root, Offset: b.Offset, Reason: reason, Attempts: b.Attempt,
			Failures: b.Failures, Crashes: b.Crashes, FirstSeen: b.FirstSeen, Died: time.Now(),
		})
		return
	}
	q.stats.Splits++
	children := int(math.Ceil(math.Sqrt(float64(n))))
	for c, from := 0, 0; c < children; c++ {
		to := n * (c + 1) / children
		id := uid.New()
		child := b
		child.ID, child.Offset, child.Payloads, child.Guard = id, b.Offset+from, b.Payloads[from:to], q.guard(id)
		child.Attempt, child.Failures, child.Crashes, child.Bytes = 0, 0, 0, 0
		for _, p := range child.Payloads {
			child.Bytes += len(p)
		}
		q.add(&held{batch: child, state: stateWaiting})
		from = to
	}
}

func (q *Queue) settleOver(ctx context.Context, b *queue.Batch, settle queue.SettleFunc) error {
	var s queue.Resolution
	if settle != nil {
		var err error
		if s, err = settle(ctx, b); err != nil {
			q.mu.Lock()
			defer q.mu.Unlock()
			if h, lost := q.own(b, stateSettling); lost == nil {
				h.state = stateWaiting
			}
			return fmt.Errorf("queue: settle batch %s: %w", b.ID, err)
		}
	}
	return q.Settle(ctx, b, s)
}

// Reconcile acts on the fate of every batch that is handed off.
func (q *Queue) Reconcile(ctx context.Context, fates queue.FatesFunc, settle queue.SettleFunc) (r queue.ReconcileResult, err error) {
	handed, _ := q.HandedOff(ctx)
	ids := make([]string, len(handed))
	for i, h := range handed {
		ids[i] = h.ID
	}
	known, err := fates(ctx, ids)
	if err != nil {
		return r, err
	}
	for i, f := range known {
		r.Seen++
		switch f.Fate {
		case queue.FateStaged:
			r.Left++
		case queue.FatePromoted:
			n, _ := q.AckWith(ctx, queue.Ack{ID: ids[i], Undo: f.Undo})
			r.Acked += n
		case queue.FateVoid:
			if err := q.finishVoid(ctx, ids[i], settle); err != nil {
				return r, err
			}
			r.Settled++
		case queue.FateUnknown:
			r.Redelivered += q.redeliver(handed[i])
		}
	}
	return r, nil
}

func (q *Queue) finishVoid(ctx context.Context, id string, settle queue.SettleFunc) error {
	q.mu.Lock()
	h := q.held[id]
	if h == nil {
		q.mu.Unlock()
		return nil
	}
	b := h.batch
	q.mu.Unlock()
	var s queue.Resolution
	if settle != nil {
		var err error
		if s, err = settle(ctx, &b); err != nil {
			return err
		}
	}
	return q.Settle(ctx, &b, s)
}

func (q *Queue) redeliver(o queue.HandedOff) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.held[o.ID]
	if h == nil || h.state != stateHandedOff || h.batch.Attempt != o.Attempt {
		return 0
	}
	h.state = stateWaiting
	q.notify()
	return 1
}

// Stats returns the counts of the queue.
func (q *Queue) Stats(context.Context) (queue.Stats, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.stats
	s.At = time.Now()
	s.Ready, s.Dead = int64(len(q.ready)), int64(len(q.dead))
	for _, h := range q.held {
		n := int64(len(h.batch.Payloads))
		s.InFlight += n
		s.OldestAge = max(s.OldestAge, time.Since(h.batch.FirstSeen))
		switch h.state {
		case stateHandedOff:
			s.HandedOff += n
			s.HandedOffBatches++
		case stateWaiting:
			s.WaitingBatches++
		default:
			s.LeasedBatches++
		}
	}
	return s, nil
}

// HandedOff lists the batches that are handed off, oldest first.
func (q *Queue) HandedOff(context.Context) ([]queue.HandedOff, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []queue.HandedOff
	for _, id := range q.order {
		if h := q.held[id]; h.state == stateHandedOff {
			out = append(out, queue.HandedOff{ID: id, Attempt: h.batch.Attempt, Records: len(h.batch.Payloads), Since: h.since})
		}
	}
	return out, nil
}

// DeadLetters returns the dead letters, oldest first.
func (q *Queue) DeadLetters() []queue.DeadLetter {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.dead)
}
