package queue

import (
	"context"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// The states in which a batch is held; see common.lua.
const (
	stateLeased   = "L"
	stateSettling = "S"
)

// Extend makes the lease of b last d from now (0: Config.Lease.Duration). It returns ErrLeaseLost
// if the caller no longer holds the lease. Extend does not change b, so a heartbeat may run
// concurrently with its worker. It takes one round trip, as do Handoff and Release.
func (q *Queue) Extend(ctx context.Context, b *Batch, d time.Duration) error {
	return q.extend(ctx, b, d, false)
}

// ExtendWaiting is Extend for a batch that the caller's own code has finished and that now waits
// for the durable side. If the caller dies during that wait, the lease expires without counting as
// a crash. The next Extend revokes this.
func (q *Queue) ExtendWaiting(ctx context.Context, b *Batch, d time.Duration) error {
	return q.extend(ctx, b, d, true)
}

func (q *Queue) extend(ctx context.Context, b *Batch, d time.Duration, waits bool) error {
	if d == 0 {
		d = q.cfg.Lease.Duration
	}
	if err := within("Extend: duration", d, minDuration, maxLeaseDuration); err != nil {
		return err
	}
	return q.hold(ctx, "extend", stateLeased, b, ms(d), flag(waits))
}

// Handoff passes b from the worker to the promoter. From then on b has no deadline: only Reconcile
// redelivers it. It returns ErrLeaseLost if the caller no longer holds the lease.
func (q *Queue) Handoff(ctx context.Context, b *Batch) error {
	return q.hold(ctx, "handoff", stateLeased, b)
}

// Release returns b to the queue, to be redelivered whole. It returns ErrLeaseLost if the caller no
// longer holds the lease.
func (q *Queue) Release(ctx context.Context, b *Batch, o ReleaseOptions) error {
	return q.release(ctx, stateLeased, b, o)
}

func (q *Queue) release(ctx context.Context, state string, b *Batch, o ReleaseOptions) error {
	if err := within("ReleaseOptions.Delay", o.Delay, 0, maxLeaseDuration); err != nil {
		return err
	}
	delay := ms(o.Delay)
	if o.Delay == 0 {
		delay = "-1"
	}
	return q.hold(ctx, "release", state, b, delay, cut(o.Failure, MaxReason), ms(q.cfg.Lease.Backoff), ms(q.cfg.Lease.MaxBackoff), randomArg())
}

// hold runs an operation that only the holder of a lease may do.
func (q *Queue) hold(ctx context.Context, op, state string, b *Batch, args ...string) error {
	if b == nil {
		return noBatch(op)
	}
	head := []string{op, b.ID, strconv.FormatInt(b.Attempt, 10), state}
	v, err := q.run(ctx, holdScript, drains, append(head, args...)...).AsInt64()
	if err != nil {
		return q.wrapScript(ctx, op, err, q.metaType(b.ID), q.listType(b.ID))
	}
	if v == replyBroken {
		return fmt.Errorf("%w: %s of batch %s", ErrBroken, op, shown(b.ID))
	}
	if v < 0 {
		return fmt.Errorf("%w: %s of batch %s, attempt %d", ErrLeaseLost, op, shown(b.ID), b.Attempt)
	}
	return nil
}

// noBatch is the error of a call that got no batch.
func noBatch(op string) error {
	return fmt.Errorf("%w: %s: the batch is nil, must come from Lease or Get", ErrConfig, op)
}

// cut returns s in at most n bytes, and does not cut a character in two.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
