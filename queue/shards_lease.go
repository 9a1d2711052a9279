package queue

import (
	"context"
	"errors"
	"sync"
	"time"
)

// TryLease leases a batch from the next shard that has one. It starts with another shard each time,
// so none starves. It returns the error of a shard only if no other shard has a batch, logs it, and
// leaves that shard alone for a second, and for up to half a minute while it goes on to fail.
func (s *Shards) TryLease(ctx context.Context, o LeaseOptions) (*Batch, error) {
	b, _, err := s.round(ctx, o)
	return b, err
}

// round tries each shard once. Without a batch it returns what each shard answered, nil for one
// that did not. It leaves a shard that has failed alone for a while.
func (s *Shards) round(ctx context.Context, o LeaseOptions) (*Batch, []*leased, error) {
	o, err := s.queues[0].options(o) // all shards have one Config
	if err != nil {
		return nil, nil, err
	}
	var failed error
	all := make([]*leased, len(s.queues))
	first := int(s.next.Add(1) % uint64(len(s.queues)))
	for k := range s.queues {
		i := (first + k) % len(s.queues)
		if !s.resting[i].begin(time.Now()) {
			continue
		}
		l, err := s.takeFrom(ctx, i, o)
		switch {
		case err != nil:
			failed = errors.Join(failed, shardError(s.queues[i], err))
			continue
		case l.batch != nil:
			return l.batch, nil, nil
		}
		all[i] = &l
	}
	switch {
	case failed != nil:
		return nil, all, failed
	case allPaused(all):
		return nil, all, ErrPaused
	}
	return nil, all, ErrEmpty
}

// allPaused reports whether all shards that have answered are paused.
func allPaused(all []*leased) bool {
	paused := false
	for _, l := range all {
		if l != nil && !l.paused {
			return false
		}
		paused = paused || l != nil
	}
	return paused
}

// takeFrom tries one shard, as Queue.take does. It notes whether the shard answers.
func (s *Shards) takeFrom(ctx context.Context, i int, o LeaseOptions) (leased, error) {
	q := s.queues[i]
	for {
		l, err := q.seal(ctx, o, 1)
		s.note(ctx, i, err)
		if err != nil {
			return leased{}, err
		}
		if done, err := q.finish(ctx, o, l); done || err != nil {
			return l, err
		}
	}
}

// note records the answer of a shard, and logs when a shard begins to fail or works again.
func (s *Shards) note(ctx context.Context, i int, err error) {
	q := s.queues[i]
	failed := err != nil && ctx.Err() == nil
	switch changed := s.resting[i].end(failed); {
	case changed && failed:
		q.cfg.Logger.WarnContext(ctx, "queue: a shard fails; the others go on", "queue", s.name, "shard", q.name, "err", err)
	case changed:
		q.cfg.Logger.InfoContext(ctx, "queue: a shard works again", "queue", s.name, "shard", q.name)
	}
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
		if answers[i] != nil {
			s.peek(i, *answers[i])
		}
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

// rest keeps consumers from a shard that has failed, while others work.
type rest struct {
	mu       sync.Mutex
	begun    time.Time // of the call that is under way; zero: none
	until    time.Time
	duration time.Duration
}

// The time for which a shard that has failed is left alone. It doubles while the shard fails.
const firstRest, lastRest = time.Second, 30 * time.Second

// begin reports whether a consumer may ask the shard: it has not failed a moment ago, and no call
// that began long ago is still without an answer.
func (r *rest) begin(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Before(r.until) || !r.begun.IsZero() && now.Sub(r.begun) > firstRest {
		return false
	}
	if r.begun.IsZero() {
		r.begun = now
	}
	return true
}

// end records the outcome of a call that begin has allowed. It reports whether it differs from the
// one before.
func (r *rest) end(failed bool) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun = time.Time{}
	changed = failed != (r.duration > 0)
	if !failed {
		r.duration = 0
		return changed
	}
	r.duration = min(max(2*r.duration, firstRest), lastRest)
	r.until = time.Now().Add(r.duration)
	return changed
}
