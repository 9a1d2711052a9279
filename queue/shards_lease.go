package queue

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// TryLease leases a batch from the next shard that has one. It starts with another shard each time,
// so none starves. It returns the error of a shard only if no other shard has a batch, and logs it.
// It then leaves that shard alone for a second, and for longer each time it fails again, up to half
// a minute. Meanwhile it returns the same error in place of ErrEmpty: that shard may have batches.
func (s *Shards) TryLease(ctx context.Context, o LeaseOptions) (*Batch, error) {
	r, err := s.round(ctx, o, nil, s.stay)
	if r.resting != nil {
		if waits(err) {
			err = nil
		}
		err = errors.Join(err, r.resting)
	}
	return r.batch, err
}

// round is the outcome of a round of the shards: a batch, or why there is none.
type round struct {
	batch   *Batch
	answers []*leased // by shard; nil: it did not answer
	resting error     // of the shards that were left alone; nil: none was
}

// A sealer calls the lease script of shard i.
type sealer func(ctx context.Context, i int, o LeaseOptions) (leased, error)

// round tries each shard once, by seal. It leaves a shard that has failed alone for a while. It
// calls pass before it asks such a shard again, and when a shard is silent. nil: no pass.
func (s *Shards) round(ctx context.Context, o LeaseOptions, pass func(), seal sealer) (round, error) {
	o, err := s.queues[0].options(o) // all shards have one Config
	if err != nil {
		return round{}, err
	}
	var failed error
	r := round{answers: make([]*leased, len(s.queues))}
	first := int(s.next.Add(1) % uint64(len(s.queues)))
	abandoned := s.abandoned(s.layout())
	for k := range s.queues {
		i := (first + k) % len(s.queues)
		if abandoned != nil && !abandoned[i] {
			continue // it belongs to programs with the new number
		}
		if l := s.late.take(i, o); l != nil {
			if done, err := s.queues[i].finish(ctx, o, *l); err == nil && done && l.batch != nil {
				return round{batch: l.batch}, nil
			}
		}
		failing, err := s.resting[i].begin(time.Now())
		if err != nil {
			r.resting = errors.Join(r.resting, shardError(s.queues[i], err))
			continue
		}
		stop := passIfSilent(pass, failing)
		l, err := s.takeFrom(ctx, i, o, seal)
		stop()
		switch {
		case errors.Is(err, errSilent):
			r.resting = errors.Join(r.resting, shardError(s.queues[i], err))
			continue
		case err != nil:
			failed = errors.Join(failed, shardError(s.queues[i], err))
			continue
		case l.batch != nil:
			return round{batch: l.batch}, nil
		}
		r.answers[i] = &l
	}
	switch {
	case failed != nil:
		return r, failed
	case abandoned != nil:
		if err := s.changed(); err != nil {
			return r, err
		}
	case allPaused(r.answers):
		return r, ErrPaused
	}
	return r, ErrEmpty
}

// passIfSilent calls pass at once if the shard is failing, and otherwise when it has not answered
// for so long that begin keeps other consumers from it. stop ends that.
func passIfSilent(pass func(), failing bool) (stop func()) {
	switch {
	case pass == nil:
	case failing:
		pass()
	default:
		timer := time.AfterFunc(firstRest+time.Millisecond, pass)
		return func() { timer.Stop() }
	}
	return func() {}
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

// takeFrom tries one shard, as Queue.take does.
func (s *Shards) takeFrom(ctx context.Context, i int, o LeaseOptions, seal sealer) (leased, error) {
	for {
		l, err := seal(ctx, i, o)
		if err != nil {
			return leased{}, err
		}
		if done, err := s.queues[i].finish(ctx, o, l); done || err != nil {
			return l, err
		}
	}
}

// note records the answer of a shard, and logs when a shard begins to fail or works again. A call
// whose context ended at once shows neither.
func (s *Shards) note(ctx context.Context, i int, err error, lasted time.Duration) {
	if err != nil && ctx.Err() != nil {
		if lasted < firstRest {
			s.resting[i].leave()
			return
		}
		err = errSilent
	}
	q := s.queues[i]
	switch changed := s.resting[i].end(err); {
	case changed && err != nil:
		q.cfg.Logger.WarnContext(ctx, "queue: a shard fails; the others go on", "queue", s.name, "shard", q.name, "error", err)
	case changed:
		q.cfg.Logger.InfoContext(ctx, "queue: a shard works again", "queue", s.name, "shard", q.name)
	}
}

// Lease waits for a batch from any shard. It ignores Linger and Idle: a batch is never held back to
// fill up. After it has returned, a blocking read of a shard may continue for up to
// Config.Lease.PollInterval, for the next consumer that waits.
//
// When a shard stops answering, each consumer that asks it in the first second is delayed by a
// second. After that the consumers get the batches of the other shards. If the silent shard leases
// a batch after all, the next consumer with the same options gets it; if none comes, the batch goes
// back to the queue.
func (s *Shards) Lease(ctx context.Context, o LeaseOptions) (*Batch, error) {
	if r, err := s.round(ctx, o, nil, s.leave); !waits(err) {
		return r.batch, err
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

// waitRound takes the turn, tries every shard, and waits at all of them if none has a batch. It
// passes the turn on while it waits for the answer of a shard that has failed, or that is silent:
// the next consumer leaves that shard alone.
func (s *Shards) waitRound(ctx context.Context, o LeaseOptions) (*Batch, error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var passed atomic.Bool
	pass := func() {
		if !passed.Swap(true) {
			<-s.turn
		}
	}
	defer pass()
	woken := s.wakeUp(false)
	r, err := s.round(ctx, o, pass, s.leave)
	if !waits(err) || passed.Load() {
		return r.batch, err
	}
	interval := time.Minute
	for i, q := range s.queues {
		if r.answers[i] != nil {
			s.peek(i, *r.answers[i])
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
		ctx, cancel := context.WithTimeout(context.Background(), s.queues[i].cfg.Lease.PollInterval+lateAfter+time.Second)
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
	err      error // of the last call; nil: it succeeded
}

// The time for which a shard that has failed is left alone. It doubles while the shard fails.
const firstRest, lastRest = time.Second, 30 * time.Second

// errSilent is the error of a shard while a call, or the last one, has had no answer.
var errSilent = errors.New("queue: lease: Redis has not answered for a second")

// begin returns nil if a consumer may ask the shard: it has not failed a moment ago, and no call
// that began long ago is still without an answer. One consumer at a time asks a shard that is
// failing.
func (r *rest) begin(now time.Time) (failing bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch failing = r.err != nil; {
	case failing && (now.Before(r.until) || !r.begun.IsZero()):
		return failing, r.err
	case !r.begun.IsZero() && now.Sub(r.begun) > firstRest:
		return failing, errSilent
	}
	if r.begun.IsZero() {
		r.begun = now
	}
	return failing, nil
}

// leave ends a call that begin has allowed, without an outcome.
func (r *rest) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun = time.Time{}
}

// end records the outcome of a call that begin has allowed. It reports whether the shard begins or
// ceases to fail.
func (r *rest) end(err error) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun = time.Time{}
	changed = (err != nil) != (r.err != nil)
	r.err = err
	if err == nil {
		r.duration = 0
		return changed
	}
	r.duration = min(max(2*r.duration, firstRest), lastRest)
	r.until = time.Now().Add(r.duration)
	return changed
}
