package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// MaxShards bounds NewShards.
const MaxShards = 256

// Shards is a queue spread over several slots of a Redis Cluster, and so over its nodes. Each shard is a whole Queue with its own
// books; a batch comes from one shard. This type is concurrency safe.
type Shards struct {
	qs   []*Queue
	byID map[string]*Queue // by name
	by   func([]byte) string

	next atomic.Uint64
	turn chan struct{} // held by the one consumer of this process that waits

	mu      sync.Mutex
	woken   chan struct{} // closed when a peek has seen something
	peeking []bool
}

// NewShards opens n queues called name.0 … with a suffix each that puts it into the i-th of n equal parts of the cluster's slots. by says
// what a payload is sharded by: records that must meet in one dedup window need the same. nil: nothing, turn by turn.
func NewShards(ctx context.Context, client rueidis.Client, name string, n int, by func(payload []byte) string, cfg Config) (*Shards, error) {
	if err := redisx.CheckName(name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := within("NewShards: n", n, 1, MaxShards); err != nil {
		return nil, err
	}
	s := &Shards{by: by, byID: map[string]*Queue{}, turn: make(chan struct{}, 1), woken: make(chan struct{}), peeking: make([]bool, n)}
	for i := range n {
		q, err := New(ctx, client, ShardName(name, i, n), cfg)
		if err != nil {
			return nil, err
		}
		s.qs = append(s.qs, q)
		s.byID[q.name] = q
	}
	return s, nil
}

// ShardName is the name of shard i of n.
func ShardName(name string, i, n int) string {
	for k := 0; ; k++ {
		shard := name + "." + strconv.Itoa(i)
		if k > 0 {
			shard += "." + strconv.Itoa(k)
		}
		if slot(shard)*n/slots == i {
			return shard
		}
	}
}

const slots = 16384

// slot is the cluster slot of a hash tag: CRC16, polynomial 0x1021.
func slot(tag string) int {
	var crc uint16
	for i := range len(tag) {
		crc ^= uint16(tag[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % slots
}

// Queues are the shards.
func (s *Shards) Queues() []*Queue { return s.qs }

// Of is the shard that holds b.
func (s *Shards) Of(b *Batch) *Queue { return s.byID[b.Queue] }

// ShardOf is the index of the shard for key: the same in every process.
func (s *Shards) ShardOf(key string) int { return slot(key) * len(s.qs) / slots }

// Push pushes each payload to its shard, all shards at once. A shard's part is accepted or refused by itself; the error says
// which ones were not.
func (s *Shards) Push(ctx context.Context, payloads ...[]byte) error {
	if err := s.qs[0].checkPayloads(payloads); err != nil { // all or nothing, as far as this can be told before
		return err
	}
	parts := make([][][]byte, len(s.qs))
	if s.by == nil {
		i := int(s.next.Add(1) % uint64(len(s.qs)))
		size := (len(payloads) + len(s.qs) - 1) / len(s.qs)
		for len(payloads) > 0 {
			n := min(size, len(payloads))
			parts[i%len(s.qs)] = payloads[:n]
			payloads = payloads[n:]
			i++
		}
	} else {
		for _, p := range payloads {
			i := s.ShardOf(s.by(p))
			parts[i] = append(parts[i], p)
		}
	}
	return s.each(func(i int, q *Queue) error {
		if len(parts[i]) == 0 {
			return nil
		}
		return q.Push(ctx, parts[i]...)
	})
}

// each calls f for all shards at once and joins the errors.
func (s *Shards) each(f func(i int, q *Queue) error) error {
	errs := make([]error, len(s.qs))
	var wg sync.WaitGroup
	for i, q := range s.qs {
		wg.Go(func() {
			if err := f(i, q); err != nil {
				errs[i] = fmt.Errorf("shard %s: %w", q.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// TryLease leases a batch of the next shard that has one, turn by turn, so that none starves. The error of a shard is returned only when no other
// shard has a batch.
func (s *Shards) TryLease(ctx context.Context, o LeaseOptions) (*Batch, error) {
	b, _, err := s.round(ctx, o)
	return b, err
}

func (s *Shards) round(ctx context.Context, o LeaseOptions) (*Batch, []leased, error) {
	var bad error
	paused := true
	ts := make([]leased, len(s.qs))
	first := int(s.next.Add(1) % uint64(len(s.qs)))
	for k := range s.qs {
		i := (first + k) % len(s.qs)
		o, err := s.qs[i].options(o)
		if err != nil {
			return nil, nil, err
		}
		ts[i], err = s.qs[i].take(ctx, o, 1)
		if ts[i].batch != nil {
			return ts[i].batch, nil, nil
		}
		if err != nil {
			ts[i].next = -1
			bad = errors.Join(bad, fmt.Errorf("shard %s: %w", s.qs[i].name, err))
		}
		paused = paused && ts[i].paused
	}
	switch {
	case bad != nil:
		return nil, ts, bad
	case paused:
		return nil, ts, ErrPaused
	}
	return nil, ts, ErrEmpty
}

// Lease waits for a batch of any shard. It does not linger. For up to Config.Lease.PollInterval after it has returned, a peek may go on at a shard's
// server, for whoever waits next.
func (s *Shards) Lease(ctx context.Context, o LeaseOptions) (*Batch, error) {
	if b, _, err := s.round(ctx, o); !errors.Is(err, ErrEmpty) && !errors.Is(err, ErrPaused) {
		return b, err
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for {
		woken := s.wake(false)
		b, ts, err := s.round(ctx, o)
		if !errors.Is(err, ErrEmpty) && !errors.Is(err, ErrPaused) {
			return b, err
		}
		look := time.Minute
		for i, q := range s.qs {
			s.peek(i, ts[i])
			look = min(look, q.cfg.Lease.PollInterval)
		}
		timer := time.NewTimer(look)
		select {
		case <-woken:
			timer.Stop()
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

// wake returns the channel that is closed when a peek has seen something, or closes it.
func (s *Shards) wake(now bool) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now {
		close(s.woken)
		s.woken = make(chan struct{})
	}
	return s.woken
}

// peek waits at shard i unless somebody does.
func (s *Shards) peek(i int, l leased) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peeking[i] {
		return
	}
	s.peeking[i] = true
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), s.qs[i].cfg.Lease.PollInterval+10*time.Second)
		defer cancel()
		_ = s.qs[i].wait(ctx, l) // an error shows itself to whoever leases
		s.mu.Lock()
		s.peeking[i] = false
		s.mu.Unlock()
		s.wake(true)
	}()
}

// Extend is Queue.Extend; like all that follows it goes to the shard of b.
func (s *Shards) Extend(ctx context.Context, b *Batch, d time.Duration) error {
	return s.on(b, func(q *Queue) error { return q.Extend(ctx, b, d) })
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
	q := s.Of(b)
	if q == nil {
		return fmt.Errorf("%w: batch %s is of queue %q, which is no shard", ErrGone, b.ID, b.Queue)
	}
	return f(q)
}

// Ack acknowledges batches of any shards: every shard is asked for all of them, at once.
func (s *Shards) Ack(ctx context.Context, ids ...string) (int, error) {
	var n atomic.Int64
	err := s.each(func(_ int, q *Queue) error {
		k, err := q.Ack(ctx, ids...)
		n.Add(int64(k))
		return err
	})
	return int(n.Load()), err
}

// Reconcile reconciles every shard.
func (s *Shards) Reconcile(ctx context.Context, known FatesFunc, settle SettleFunc) (ReconcileResult, error) {
	var sum ReconcileResult
	var errs []error
	for _, q := range s.qs {
		r, err := q.Reconcile(ctx, known, settle)
		sum.Seen, sum.Left, sum.Acked = sum.Seen+r.Seen, sum.Left+r.Left, sum.Acked+r.Acked
		sum.Settled, sum.Redelivered = sum.Settled+r.Settled, sum.Redelivered+r.Redelivered
		errs = append(errs, err)
	}
	return sum, errors.Join(errs...)
}

// Stats is the sum of the shards' books; the oldest of all, and paused only if all are. The shards are read one after another.
func (s *Shards) Stats(ctx context.Context) (Stats, error) {
	sum := Stats{Paused: true}
	for _, q := range s.qs {
		x, err := q.Stats(ctx)
		if err != nil {
			return Stats{}, fmt.Errorf("shard %s: %w", q.name, err)
		}
		sum.add(x)
	}
	return sum, nil
}

func (s *Stats) add(x Stats) {
	s.Ready += x.Ready
	s.Delayed += x.Delayed
	s.InFlight += x.InFlight
	s.HandedOff += x.HandedOff
	s.Dead += x.Dead
	s.LeasedBatches += x.LeasedBatches
	s.WaitingBatches += x.WaitingBatches
	s.HandedOffBatches += x.HandedOffBatches
	s.Taken += x.Taken
	s.Acked += x.Acked
	s.Discarded += x.Discarded
	s.Redelivered += x.Redelivered
	s.Requeued += x.Requeued
	s.Splits += x.Splits
	s.OldestAge = max(s.OldestAge, x.OldestAge)
	s.Paused = s.Paused && x.Paused
}
