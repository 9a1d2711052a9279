package queue

import (
	"context"
	"errors"
	"sync"
	"time"
)

// lateBatches are batches of calls that their consumers have not waited for.
type lateBatches struct {
	mu      sync.Mutex
	byShard []*lateBatch
}

// lateBatch is the result of a call that was answered late, with the options of that call.
type lateBatch struct {
	leased
	o LeaseOptions
}

// keepLate is how long a late batch waits for a consumer. After that it is given back.
const keepLate = time.Second

// backgroundTimeout bounds a call that no caller waits for.
const backgroundTimeout = 10 * time.Second

// take returns a late batch of shard i for a consumer with the options o. nil: there is none.
func (b *lateBatches) take(i int, o LeaseOptions) *leased {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.byShard[i]
	if l == nil || l.o.Records != o.Records || l.o.Bytes != o.Bytes || l.o.Duration != o.Duration {
		return nil
	}
	b.byShard[i] = nil
	return &l.leased
}

// put keeps a late batch, and returns the one that it replaces.
func (b *lateBatches) put(i int, l *lateBatch) (before *lateBatch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before, b.byShard[i] = b.byShard[i], l
	return before
}

// drop removes l if it is still there, and reports whether it was.
func (b *lateBatches) drop(i int, l *lateBatch) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byShard[i] != l {
		return false
	}
	b.byShard[i] = nil
	return true
}

// stay is the sealer of a consumer that stays until the shard answers.
func (s *Shards) stay(ctx context.Context, i int, o LeaseOptions) (leased, error) {
	start := time.Now()
	l, err := s.queues[i].seal(ctx, o, 1)
	s.note(ctx, i, err, time.Since(start))
	return l, err
}

// leave is the sealer of a consumer that waits for the answer for firstRest and then returns
// errSilent. The call goes on without it.
func (s *Shards) leave(ctx context.Context, i int, o LeaseOptions) (leased, error) {
	call, cancel := context.WithCancel(context.WithoutCancel(ctx))
	attached := context.AfterFunc(ctx, cancel)
	type answer struct {
		leased
		err error
	}
	answers := make(chan answer, 1)
	var mu sync.Mutex
	left := false // the consumer has left
	go func() {
		defer cancel()
		l, err := s.stay(call, i, o)
		mu.Lock()
		defer mu.Unlock()
		if !left {
			answers <- answer{l, err}
			return
		}
		if err == nil && l.batch != nil {
			s.keep(i, &lateBatch{l, o})
		}
	}()
	timer := time.NewTimer(firstRest)
	defer timer.Stop()
	select {
	case a := <-answers:
		attached()
		return a.leased, ended(ctx, a.err)
	case <-timer.C:
	}
	mu.Lock()
	defer mu.Unlock()
	select {
	case a := <-answers:
		attached()
		return a.leased, ended(ctx, a.err)
	default:
	}
	left = true
	if attached() {
		return leased{}, errSilent
	}
	return leased{}, wrap("lease", ctx.Err()) // the call ends with ctx too
}

// ended returns the error of a call that ended with ctx as that of ctx.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return wrap("lease", ctx.Err())
	}
	return err
}

// keep keeps a late batch for a consumer, and wakes one that waits. A batch that none takes is
// given back: its records have not failed.
func (s *Shards) keep(i int, l *lateBatch) {
	if before := s.late.put(i, l); before != nil {
		s.giveBack(i, before)
	}
	time.AfterFunc(keepLate, func() {
		if s.late.drop(i, l) {
			s.giveBack(i, l)
		}
	})
	s.wakeUp(true)
}

// giveBack releases a late batch. If this fails, its lease expires.
func (s *Shards) giveBack(i int, l *lateBatch) {
	ctx, cancel := context.WithTimeout(context.Background(), backgroundTimeout)
	defer cancel()
	_ = s.queues[i].Release(ctx, l.batch, ReleaseOptions{})
}
