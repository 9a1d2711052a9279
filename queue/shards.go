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

// MaxShards bounds the number of shards.
const MaxShards = 256

// Shards is a queue spread over several slots of a Redis Cluster, and so over its nodes. Each shard
// is a complete Queue with its own books, and a batch comes from one shard. This type is
// concurrency safe.
type Shards struct {
	queues []*Queue
	byName map[string]*Queue
	keyOf  func([]byte) string

	next atomic.Uint64
	turn chan struct{} // held by the one consumer of this process that waits

	mu      sync.Mutex
	woken   chan struct{} // closed when a peek has returned
	peeking []bool        // by shard
}

// NewShards opens n queues called name.0 and so on, each with a suffix that puts it into one of n
// equal parts of the cluster's slots. by returns the sharding key of a payload: records that must
// share a deduplication window need the same key. nil: payloads go to the shards in turn.
//
// Redis holds the number of shards, in the key {name}:queue:shards. NewShards with another number
// changes it if the shards that would be abandoned are empty, and otherwise returns a *ShardsError.
// To change it, requeue or discard the dead letters, stop the producers, let consumers with the old
// number drain the shards, and start both with the new number.
func NewShards(
	ctx context.Context, client rueidis.Client, name string, n int, by func(payload []byte) string, cfg Config,
) (*Shards, error) {
	if err := redisx.CheckName(name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := within("NewShards: n", n, 1, MaxShards); err != nil {
		return nil, err
	}
	s := &Shards{
		keyOf: by, byName: map[string]*Queue{}, turn: make(chan struct{}, 1), woken: make(chan struct{}), peeking: make([]bool, n),
	}
	for i := range n {
		q, err := New(ctx, client, ShardName(name, i, n), cfg)
		if err != nil {
			return nil, err
		}
		s.queues = append(s.queues, q)
		s.byName[q.name] = q
	}
	if err := s.recordCount(ctx, client, name, cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// ShardsError is ErrConfig with both numbers of shards: that of the data and that of this program.
type ShardsError struct {
	Name       string
	Have, Want int
	Records    int64 // in the shards that this program would abandon
}

func (e *ShardsError) Error() string {
	return fmt.Sprintf("queue: invalid configuration: %s has %d shards, this program wants %d, "+
		"and %d records are in shards that it would leave: drain them first", e.Name, e.Have, e.Want, e.Records)
}

// Is reports whether target is ErrConfig.
func (e *ShardsError) Is(target error) bool { return target == ErrConfig }

// recordShardsScript sets the number of shards, if it is still the one that the caller has seen. It
// returns the number that holds afterwards.
var recordShardsScript = redisx.NewScript(`local count, never = KEYS[1], KEYS[2]
local seen, want = ARGV[1], ARGV[2]
local have = redis.call('GET', count) or ''
if have ~= seen then return have end
redis.call('SET', count, want)
return want`)

// recordCount compares the number of shards with the one in Redis, and records it.
func (s *Shards) recordCount(ctx context.Context, client rueidis.Client, name string, cfg Config) error {
	count, never := "{"+name+"}:queue:shards", "{"+name+"}:queue:never"
	server, err := redisx.Open(ctx, client, never)
	if err != nil {
		return wrap("open "+name, err)
	}
	have, err := server.Read(ctx, "GET", count).ToString()
	if err != nil && !rueidis.IsRedisNil(err) {
		return wrap("open "+name, err)
	}
	want := itoa(len(s.queues))
	for have != want {
		if have != "" {
			if err := s.checkLeft(ctx, client, name, have, cfg); err != nil {
				return err
			}
		}
		call := redisx.Call{Script: recordShardsScript, Keys: []string{count, never}, Args: []string{have, want}}
		have, err = server.Run(ctx, call).ToString()
		if redisx.NoPermission(err) {
			return nil // a reader
		}
		if err != nil {
			return wrap("open "+name, err)
		}
	}
	return nil
}

// checkLeft returns a *ShardsError if one of the shards recorded in Redis holds records and is not
// a shard of s.
func (s *Shards) checkLeft(ctx context.Context, client rueidis.Client, name, have string, cfg Config) error {
	n, err := strconv.Atoi(have)
	if err != nil || n < 1 || n > MaxShards {
		return fmt.Errorf("%w: the number of shards of %s in Redis is %q, must be 1 to %d", ErrConfig, name, have, MaxShards)
	}
	left := int64(0)
	for i := range n {
		shard := ShardName(name, i, n)
		if s.byName[shard] != nil {
			continue
		}
		q, err := New(ctx, client, shard, Config{Logger: cfg.Logger, Eviction: EvictionIgnore})
		if err != nil {
			return err
		}
		x, err := q.Stats(ctx)
		if err != nil {
			return err
		}
		left += x.Depth() + x.Dead
	}
	if left == 0 {
		return nil
	}
	return &ShardsError{Name: name, Have: n, Want: len(s.queues), Records: left}
}

// ShardName returns the name of shard i of n.
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

// slot returns the cluster slot of a hash tag: CRC16, polynomial 0x1021.
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

// Queues returns the shards.
func (s *Shards) Queues() []*Queue { return s.queues }

// Of returns the shard that holds b, or nil.
func (s *Shards) Of(b *Batch) *Queue { return s.byName[b.Queue] }

// ShardOf returns the index of the shard for key. It is the same in every process.
func (s *Shards) ShardOf(key string) int { return slot(key) * len(s.queues) / slots }

// Push pushes each payload to its shard, to all shards at once. Each shard accepts or rejects its
// part independently; the error names the shards that failed.
func (s *Shards) Push(ctx context.Context, payloads ...[]byte) error {
	if err := s.queues[0].checkPayloads(payloads); err != nil { // before any shard has its part
		return err
	}
	parts := s.parts(payloads)
	return s.each(func(i int, q *Queue) error {
		if len(parts[i]) == 0 {
			return nil
		}
		return q.Push(ctx, parts[i]...)
	})
}

// parts divides payloads among the shards.
func (s *Shards) parts(payloads [][]byte) [][][]byte {
	parts := make([][][]byte, len(s.queues))
	if s.keyOf != nil {
		for _, p := range payloads {
			i := s.ShardOf(s.keyOf(p))
			parts[i] = append(parts[i], p)
		}
		return parts
	}
	size := (len(payloads) + len(s.queues) - 1) / len(s.queues)
	for i := int(s.next.Add(1) % uint64(len(s.queues))); len(payloads) > 0; i++ {
		n := min(size, len(payloads))
		parts[i%len(s.queues)] = payloads[:n]
		payloads = payloads[n:]
	}
	return parts
}

// each calls f for all shards at once and joins the errors.
func (s *Shards) each(f func(i int, q *Queue) error) error {
	errs := make([]error, len(s.queues))
	var wg sync.WaitGroup
	for i, q := range s.queues {
		wg.Go(func() {
			if err := f(i, q); err != nil {
				errs[i] = fmt.Errorf("shard %s: %w", q.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// TryLease leases a batch from the next shard that has one. It starts with another shard each time,
// so none starves. It returns the error of a shard only if no other shard has a batch.
func (s *Shards) TryLease(ctx context.Context, o LeaseOptions) (*Batch, error) {
	b, _, err := s.round(ctx, o)
	return b, err
}

// round tries each shard once. Without a batch it returns what each shard answered.
func (s *Shards) round(ctx context.Context, o LeaseOptions) (*Batch, []leased, error) {
	var failed error
	paused := true
	all := make([]leased, len(s.queues))
	first := int(s.next.Add(1) % uint64(len(s.queues)))
	for k := range s.queues {
		i := (first + k) % len(s.queues)
		q := s.queues[i]
		options, err := q.options(o)
		if err != nil {
			return nil, nil, err
		}
		all[i], err = q.take(ctx, options, 1)
		if err != nil {
			all[i] = leased{next: -1}
			failed = errors.Join(failed, fmt.Errorf("shard %s: %w", q.name, err))
		}
		if all[i].batch != nil {
			return all[i].batch, nil, nil
		}
		paused = paused && all[i].paused
	}
	switch {
	case failed != nil:
		return nil, all, failed
	case paused:
		return nil, all, ErrPaused
	}
	return nil, all, ErrEmpty
}

// Lease waits for a batch from any shard. It does not linger. After it has returned, a blocking
// read of a shard may continue for up to Config.Lease.PollInterval, for the next consumer that
// waits.
func (s *Shards) Lease(ctx context.Context, o LeaseOptions) (*Batch, error) {
	if b, _, err := s.round(ctx, o); !waits(err) {
		return b, err
	}
	for {
		b, err := s.waitRound(ctx, o)
		if !waits(err) {
			return b, err
		}
	}
}

// waits reports whether a consumer waits after err.
func waits(err error) bool { return errors.Is(err, ErrEmpty) || errors.Is(err, ErrPaused) }

// waitRound takes the turn, tries every shard, and waits at all of them if none has a batch.
func (s *Shards) waitRound(ctx context.Context, o LeaseOptions) (*Batch, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	woken := s.wakeUp(false)
	b, answers, err := s.round(ctx, o)
	if !waits(err) {
		return b, err
	}
	interval := time.Minute
	for i, q := range s.queues {
		s.peek(i, answers[i])
		interval = min(interval, q.cfg.Lease.PollInterval)
	}
	timer := time.NewTimer(interval)
	defer timer.Stop()
	select {
	case <-woken:
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return nil, err
}

// wakeUp returns the channel that is closed when a peek has returned, and closes it if now is set.
func (s *Shards) wakeUp(now bool) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now {
		close(s.woken)
		s.woken = make(chan struct{})
	}
	return s.woken
}

// peek waits at shard i, unless a peek is under way there.
func (s *Shards) peek(i int, l leased) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peeking[i] {
		return
	}
	s.peeking[i] = true
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), s.queues[i].cfg.Lease.PollInterval+frozenAfter)
		defer cancel()
		_ = s.queues[i].wait(ctx, l) // the next lease meets the same error
		s.mu.Lock()
		s.peeking[i] = false
		s.mu.Unlock()
		s.wakeUp(true)
	}()
}

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
	q := s.Of(b)
	if q == nil {
		return fmt.Errorf("%w: batch %s is of queue %q, which is not a shard", ErrGone, b.ID, b.Queue)
	}
	return f(q)
}

// Ack acknowledges batches of any shards. It sends all ids to every shard at once.
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
	for _, q := range s.queues {
		r, err := q.Reconcile(ctx, known, settle)
		sum.Seen, sum.Left, sum.Acked = sum.Seen+r.Seen, sum.Left+r.Left, sum.Acked+r.Acked
		sum.Settled, sum.Redelivered = sum.Settled+r.Settled, sum.Redelivered+r.Redelivered
		errs = append(errs, err)
	}
	return sum, errors.Join(errs...)
}

// Stats returns the sum of the shards' books and the greatest of their ages. It reports Paused only
// if all shards are paused. It reads the shards one after the other.
func (s *Shards) Stats(ctx context.Context) (Stats, error) {
	sum := Stats{Paused: true}
	for _, q := range s.queues {
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
	s.BrokenBatches += x.BrokenBatches
	s.Taken += x.Taken
	s.Acked += x.Acked
	s.Discarded += x.Discarded
	s.Lost += x.Lost
	s.Redelivered += x.Redelivered
	s.Requeued += x.Requeued
	s.Splits += x.Splits
	s.OldestAge = max(s.OldestAge, x.OldestAge)
	s.ClockBehind = max(s.ClockBehind, x.ClockBehind)
	s.ClockSteps += x.ClockSteps
	s.Reserved += x.Reserved
	s.Paused = s.Paused && x.Paused
}
