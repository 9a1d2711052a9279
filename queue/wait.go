package queue

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// await waits for a batch. One consumer of a process at a time waits at the server, so that a push
// wakes one of them, not all. It holds the turn only while it waits and seals: a consumer that
// lingers or settles holds back no other one.
func (q *Queue) await(ctx context.Context, o LeaseOptions, least int) (*Batch, error) {
	linger := lingering{full: least}
	for {
		l, err := q.waitAndSeal(ctx, o, linger.least(o))
		if err != nil {
			return nil, err
		}
		if done, err := q.finish(ctx, o, l); err != nil || done && l.batch != nil {
			return l.batch, err
		}
		if l.ready == 0 {
			linger.until = time.Time{}
			continue
		}
		if d := linger.next(o, l); d > 0 && !redisx.Sleep(ctx, d) {
			return nil, ctx.Err()
		}
	}
}

// lingering is the wait for a batch to fill up.
type lingering struct {
	full  int       // records of a full batch; 1: no wait
	until time.Time // the end of the wait, once there is a first record
}

// least returns how many records the next batch must have.
func (l *lingering) least(o LeaseOptions) int {
	if !l.until.IsZero() && !time.Now().Before(l.until) {
		return 1
	}
	return l.full
}

// next returns how long to sleep before the next call. The list cannot report that it has grown to
// a number of records, so the queue is polled a few times until the wait ends.
func (l *lingering) next(o LeaseOptions, s leased) time.Duration {
	now := time.Now()
	if l.until.IsZero() {
		l.until = now.Add(o.Linger)
	}
	step := max(o.Linger/8, time.Millisecond)
	if s.next >= 0 {
		step = min(step, max(s.next, time.Millisecond))
	}
	return min(step, l.until.Sub(now))
}

// idle is true if this Queue has met no record for LeaseOptions.Idle.
func (q *Queue) idle(o LeaseOptions) bool {
	return o.Idle > 0 && time.Since(time.Unix(0, q.met.Load())) >= o.Idle
}

// waitAndSeal takes the turn, waits for a record if there is none, and calls the lease script.
func (q *Queue) waitAndSeal(ctx context.Context, o LeaseOptions, least int) (leased, error) {
	select {
	case q.turn <- struct{}{}:
		defer func() { <-q.turn }()
	case <-ctx.Done():
		return leased{}, ctx.Err()
	}
	l, err := q.seal(ctx, o, least)
	if err != nil || l.batch != nil || l.again || l.ready > 0 {
		return l, err
	}
	if err := q.wait(ctx, l); err != nil {
		return leased{}, err
	}
	return q.seal(ctx, o, least)
}

const (
	// lateAfter is how long peek waits for the reply of the server beyond the time that it asked for.
	lateAfter     = time.Second
	unblockGrace  = 50 * time.Millisecond
	peekRetry     = 20 * time.Millisecond
	shortestBlock = time.Millisecond
)

// wait waits for a push, until something comes due, or for the poll interval.
//
// BLMOVE from the ready list to the same end of itself leaves the record where it is: it is a peek
// that blocks. A move straight into a batch could deliver its record long after the lease of that
// batch has expired.
func (q *Queue) wait(ctx context.Context, l leased) error {
	d := q.cfg.Lease.PollInterval
	if l.next >= 0 {
		d = min(d, l.next)
	}
	if end, ok := ctx.Deadline(); ok {
		d = min(d, time.Until(end)) // the server ends the wait in time, so the connection stays in use
	}
	d = max(d, shortestBlock)
	if l.paused {
		if !redisx.Sleep(ctx, d) {
			return ctx.Err()
		}
		return nil
	}
	err := q.peek(ctx, d)
	switch {
	case err == nil || rueidis.IsRedisNil(err):
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		// A peek that fails costs time only: a full Redis refuses it, though it lets records out, and the
		// server may fail over. The lease script reports what lasts.
		if !redisx.Sleep(ctx, min(d, peekRetry)) {
			return ctx.Err()
		}
	}
	return nil
}

// peek blocks at the server until the ready list has a record, for at most d. It leaves a server
// that is late. Redis ends the wait by its clock: when that was set back, the wait goes on until
// the clock has caught up. The lease script that follows reports a server that does not answer.
func (q *Queue) peek(ctx context.Context, d time.Duration) error {
	grace := time.Duration(0)
	if _, ok := ctx.Deadline(); ok {
		grace = unblockGrace
	}
	blocked, end := redisx.Outlive(ctx, grace)
	defer end()
	blocked, cancel := context.WithCancel(blocked)
	defer cancel()
	var late atomic.Bool
	timer := time.AfterFunc(d+lateAfter, func() { late.Store(true); cancel() })
	defer timer.Stop()
	ready := q.keys[keyReady]
	err := q.client.Do(blocked, q.client.B().Blmove().Source(ready).Destination(ready).Right().Right().
		Timeout(d.Seconds()).Build().UnblockOnCancel()).Error()
	if late.Load() {
		return nil
	}
	return err
}
