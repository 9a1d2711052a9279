package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/internal/uid"
)

// MaxShards bounds the number of shards.
const MaxShards = 256

// Shards is a queue spread over several slots of a Redis Cluster, and so over its nodes. Each shard
// is a complete [Queue] with its own books, and a batch comes from one shard. The id of a batch
// holds the slot of its shard, so every call about a batch goes to one node, however many there
// are. Calls about the whole queue, such as Stats, go to all shards at once; a failed shard does
// not stop the others.
//
// Where equal ids must meet, as in front of a dedup window, a record belongs to the shard of its
// id: see NewShards. pipeline.NewShards opens the windows, gates and signals of the shards too.
//
// This type is concurrency safe.
type Shards struct {
	name   string
	queues []*Queue
	byName map[string]*Queue
	bySlot map[int]*Queue
	keyOf  func([]byte) string
	keyed  bool // the records of this queue are placed by a key, whether this program knows it or not

	watch   layoutWatch
	next    atomic.Uint64
	turn    chan struct{} // held by the one consumer of this process that waits
	resting []rest        // by shard
	late    lateBatches

	mu      sync.Mutex
	woken   chan struct{} // closed when a peek has returned
	peeking []bool        // by shard
}

// NewShards opens n queues called name.0 and so on, each with a suffix that puts it into one of n
// equal parts of the cluster's slots.
//
// keyOf returns the sharding key of a payload. Records that must share a deduplication window need
// the same key, so with a window it returns the id that the window claims. nil: payloads go to the
// shards round-robin. A producer in another language pushes to {ShardName(name, i, n)}:ready, where
// i is the CRC16 of the key (the cluster's own hash) modulo 16,384, times n, divided by 16,384 and
// rounded down.
//
// Redis holds the number of shards and whether a key places the records, in the key
// {name}:queue:shards. NewShards with another number changes it if no record would be in the wrong
// shard, and otherwise returns a *ShardsError: the shards that would be abandoned must be empty,
// and all of them where a key places the records. To change the number, requeue or discard the dead
// letters, stop the producers, let consumers with the old number drain the shards, stop them, and
// start both with the new number. A program that continues with the old number notices the change
// within about a second, if it makes calls. From then on its pushes return a *ShardsError, and it
// leases only what is left in shards that the new number abandons; when they are empty, its leases
// return the error too.
//
// keyOf may be introduced while all shards are empty. Once a program has opened the queue with it,
// a program without it may do everything but push: Push would scatter equal ids, so it returns
// ErrConfig.
//
// The name alone is not a queue: [New] returns ErrConfig for it, and so does NewShards while a
// queue without shards has records under that name. NewShards logs a warning if a producer has
// pushed to {name}:ready of a queue with shards.
func NewShards(
	ctx context.Context, client rueidis.Client, name string, n int, keyOf func(payload []byte) string, cfg Config,
) (*Shards, error) {
	if err := redisx.CheckName(name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := within("NewShards: n", n, 1, MaxShards); err != nil {
		return nil, err
	}
	if err := redisx.CheckClient(client); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	s := &Shards{
		name: name, keyOf: keyOf, keyed: keyOf != nil, byName: map[string]*Queue{}, bySlot: map[int]*Queue{},
		turn: make(chan struct{}, 1), resting: make([]rest, n), late: lateBatches{byShard: make([]*lateBatch, n)}, woken: make(chan struct{}), peeking: make([]bool, n),
	}
	for i := range n {
		q, err := New(ctx, client, ShardName(name, i, n), cfg)
		if err != nil {
			return nil, err
		}
		s.queues = append(s.queues, q)
		s.byName[q.name], s.bySlot[slot(q.name)] = q, q
	}
	if err := s.recordLayout(ctx, client, cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// Name returns the name given to NewShards. The shards have names of their own.
func (s *Shards) Name() string { return s.name }

// Queues returns the shards.
func (s *Shards) Queues() []*Queue { return s.queues }

// Of returns the shard that holds b, or nil.
func (s *Shards) Of(b *Batch) *Queue {
	if b == nil {
		return nil
	}
	return s.byName[b.Queue]
}

// ShardOf returns the index of the shard for key. It is the same in every process.
func (s *Shards) ShardOf(key string) int { return slot(key) * len(s.queues) / slots }

// OfID returns the shard of a batch or dead letter, by the slot that its id holds. It returns nil
// if that is no shard of s.
func (s *Shards) OfID(id string) *Queue {
	tag, err := uid.Tag(id)
	if err != nil {
		return nil
	}
	return s.bySlot[int(tag)]
}

// idsByShard divides ids among the shards that made them. It leaves out those of other queues.
func (s *Shards) idsByShard(ids []string) map[*Queue][]string {
	parts := map[*Queue][]string{}
	for _, id := range ids {
		if q := s.OfID(id); q != nil {
			parts[q] = append(parts[q], id)
		}
	}
	return parts
}

// each calls f for all shards at once and joins the errors.
func (s *Shards) each(f func(i int, q *Queue) error) error {
	errs := make([]error, len(s.queues))
	var wg sync.WaitGroup
	for i, q := range s.queues {
		wg.Go(func() { errs[i] = shardError(q, f(i, q)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// sum calls f for the part of each shard that has one, at once, and adds up the results.
func sum[T any](parts map[*Queue][]T, f func(q *Queue, part []T) (int, error)) (int, error) {
	var total atomic.Int64
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for q, part := range parts {
		wg.Go(func() {
			n, err := f(q, part)
			total.Add(int64(n))
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, shardError(q, err))
			}
		})
	}
	wg.Wait()
	return int(total.Load()), errors.Join(errs...)
}

func shardError(q *Queue, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("shard %s: %w", q.name, err)
}

// Pause is Queue.Pause for all shards.
func (s *Shards) Pause(ctx context.Context) error {
	return s.each(func(_ int, q *Queue) error { return q.Pause(ctx) })
}

// Resume is Queue.Resume for all shards.
func (s *Shards) Resume(ctx context.Context) error {
	return s.each(func(_ int, q *Queue) error { return q.Resume(ctx) })
}

// Stats returns the sum of the shards' books and the greatest of their ages. It reports Paused only
// if all shards are paused. Each shard is read in one step, but not all in the same one. The sum
// still balances: a record that moves meanwhile is counted as it was before or after the move.
func (s *Shards) Stats(ctx context.Context) (Stats, error) {
	all := make([]Stats, len(s.queues))
	err := s.each(func(i int, q *Queue) (err error) { all[i], err = q.Stats(ctx); return err })
	if err != nil {
		return Stats{}, err
	}
	total := Stats{Paused: true}
	for _, x := range all {
		total.add(x)
	}
	return total, nil
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
	s.BrokenBatches += x.BrokenBatches
	s.Taken += x.Taken
	s.Acked += x.Acked
	s.Discarded += x.Discarded
	s.Lost += x.Lost
	s.Redelivered += x.Redelivered
	s.Requeued += x.Requeued
	s.Splits += x.Splits
	if s.At.IsZero() || x.At.Before(s.At) {
		s.At = x.At // shards on several servers: no age is too large
	}
	s.OldestAge = max(s.OldestAge, x.OldestAge)
	s.ClockBehind = max(s.ClockBehind, x.ClockBehind)
	s.ClockSteps += x.ClockSteps
	s.Reserved += x.Reserved
	s.Paused = s.Paused && x.Paused
	if x.Damaged != "" {
		s.Damaged = strings.Trim(s.Damaged+", "+x.Damaged, ", ")
	}
}
