package queue

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// await is called by the one consumer of this process whose turn it is to wait at the server.
func (q *Queue) await(ctx context.Context, o LeaseOptions, least int) (*Batch, error) {
	var until time.Time // the end of the linger, once there is a first record
	for {
		t, err := q.take(ctx, o, least)
		if err != nil || t.batch != nil {
			return t.batch, err
		}
		if t.paused || t.len == 0 {
			until, least = time.Time{}, min(least, 1)
			if o.Linger > 0 {
				least = o.Records
			}
			if err := q.wait(ctx, t); err != nil {
				return nil, err
			}
			continue
		}
		// There are some, but fewer than a batch.
		now := time.Now()
		if until.IsZero() {
			until = now.Add(o.Linger)
		}
		left := until.Sub(now)
		if left <= 0 {
			least = 1
			continue
		}
		// Look a few times until then: the list has no way to say that it has grown to n.
		step := max(o.Linger/8, time.Millisecond)
		if t.next >= 0 {
			step = min(step, max(t.next, time.Millisecond))
		}
		if !sleep(ctx, min(left, step)) {
			return nil, ctx.Err()
		}
	}
}

// wait waits for a push, or until something comes due, or for Look.
//
// BLMOVE from the ready list to the same end of itself leaves the record where it is: it is a peek that blocks. A move
// straight into a batch could deliver its record long after the lease of that batch has gone.
func (q *Queue) wait(ctx context.Context, t taken) error {
	d := q.cfg.Lease.PollInterval
	if t.next >= 0 {
		d = min(d, t.next)
	}
	d = max(d, time.Millisecond)
	if t.paused {
		if !sleep(ctx, d) {
			return ctx.Err()
		}
		return nil
	}
	// A frozen server is left after a while: a blocking command has no other time limit.
	c, cancel := outlive(ctx, 0)
	defer cancel()
	if c == ctx {
		c, cancel = context.WithCancel(ctx)
		defer cancel()
	}
	var frozen atomic.Bool
	timer := time.AfterFunc(d+10*time.Second, func() { frozen.Store(true); cancel() })
	ready := q.keys[kReady]
	err := q.c.Do(c, q.c.B().Blmove().Source(ready).Destination(ready).Right().Right().Timeout(d.Seconds()).Build()).Error()
	timer.Stop()
	switch {
	case err == nil || rueidis.IsRedisNil(err):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case frozen.Load():
		return errors.New("queue: lease: Redis does not answer")
	}
	werr := wrap("lease", err)
	if errors.Is(werr, ErrMemory) || refused(err) {
		// A full Redis refuses the peek, though it lets records out.
		if !sleep(ctx, min(d, 20*time.Millisecond)) {
			return ctx.Err()
		}
		return nil
	}
	return werr
}
