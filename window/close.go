package window

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

//go:embed take.lua
var takeLua string

//go:embed settle.lua
var settleLua string

var (
	// Not retryable: a lease whose reply was lost expires, and the window is redelivered.
	takeScript   = rueidis.NewLuaScript(takeLua)
	settleScript = rueidis.NewLuaScript(settleLua)
)

// MaxClose is how many windows [Store.CloseDue] leases at most in one call.
const MaxClose = 1000

// Reason says why a window was closed, or why an event was put aside.
type Reason string

const (
	// Watermark says that the newest event of the key had passed the window's end by Lateness.
	ReasonWatermark Reason = "watermark"
	// Idle says that nothing came for the key for Config.Idle.
	ReasonIdle Reason = "idle"
	// AlreadyClosed says that the window is with a closer, though the key's marks have expired.
	ReasonClosed Reason = "closed"
	// Ahead says that the event is further than Config.MaxAhead ahead of the server's clock.
	ReasonAhead Reason = "ahead"
	// Old says that the event is older than the sliding window reaches.
	ReasonOld Reason = "old"
)

// Closed is a tumbling window that is complete: nothing will be added to it any more. Name, Key and Start make an
// idempotency key, for a closer that writes its result elsewhere and dies before [Store.Done].
type ClosedWindow struct {
	Key        string
	Start, End time.Time
	// Reason is Watermark or Idle.
	Reason Reason
	// Attempt counts the closers that were given the window, this one included; it is the token of the lease.
	Attempt int64
	// Deadline is until when the window is this closer's alone, by this process' clock and on the safe side.
	Deadline time.Time
	// Events in the order of time.
	Events []Event

	name string
}

// CloseDue leases up to n windows that are complete and reads them: those whose closer has let the lease expire first, then those that the
// watermark has passed, then those of idle keys. Call [Store.Done] for each when its result is safe.
func (w *Store) CloseDue(ctx context.Context, n int) ([]ClosedWindow, error) {
	if w.cfg.Size == 0 {
		return nil, fmt.Errorf("window: %s: %w", w.name, ErrNoTumbling)
	}
	if n < 1 || n > MaxClose {
		return nil, fmt.Errorf("window: %s: n is %d: must be 1 to %d", w.name, n, MaxClose)
	}
	deadline := time.Now().Add(w.cfg.LeaseDuration)
	reply, err := takeScript.Exec(ctx, w.client, []string{w.prefix + "idle", w.prefix + "due", w.prefix + "closed", w.prefix + "leases"},
		[]string{w.prefix, strconv.Itoa(n), ms(w.cfg.LeaseDuration), ms(w.cfg.Idle), ms(w.cfg.Retention)}).ToArray()
	if err != nil {
		return nil, fmt.Errorf("window: %s: close: %w", w.name, err)
	}
	var closed []ClosedWindow
	for _, r := range reply {
		c, size, err := parse(r)
		if err != nil {
			return nil, fmt.Errorf("window: %s: close: %w", w.name, err)
		}
		if size == 0 {
			w.cfg.OnError(fmt.Errorf("window: %s: the window of %q at %v has expired before any closer came for it", w.name, c.Key, c.Start))
			continue
		}
		c.Deadline = deadline
		if c.Events, err = w.rest(ctx, w.prefix+"w:"+c.name, nil, "-inf", "+inf"); err != nil {
			return nil, fmt.Errorf("window: %s: close: %w", w.name, err)
		}
		// A closed window does not change until somebody is done with it: then it is no longer ours.
		if len(c.Events) == size {
			closed = append(closed, c)
		}
	}
	return closed, nil
}

func parse(r rueidis.RedisMessage) (c ClosedWindow, size int, err error) {
	v, err := r.ToArray()
	if err == nil && len(v) != 4 {
		err = fmt.Errorf("a reply of %d values, want 4", len(v))
	}
	if err != nil {
		return c, 0, err
	}
	if c.name, err = v[0].ToString(); err != nil {
		return c, 0, err
	}
	if c.Attempt, err = v[1].AsInt64(); err != nil {
		return c, 0, err
	}
	reason, err := v[2].ToString()
	if err != nil {
		return c, 0, err
	}
	c.Reason = Reason(reason)
	n, err := v[3].AsInt64()
	if err != nil {
		return c, 0, err
	}
	start, rest, _ := strings.Cut(c.name, " ")
	length, key, _ := strings.Cut(rest, " ")
	from, err1 := strconv.ParseInt(start, 10, 64)
	span, err2 := strconv.ParseInt(length, 10, 64)
	if err1 != nil || err2 != nil {
		return c, 0, fmt.Errorf("window name %q", c.name)
	}
	c.Key, c.Start, c.End = key, time.UnixMilli(from).UTC(), time.UnixMilli(from+span).UTC()
	return c, int(n), nil
}

// Done says that the result of a closed window is safe, and deletes it. [ErrLeaseLost]: another closer has it, or had
// it and is done; the same events then have two results, which the idempotency key of [Closed] tells apart.
func (w *Store) Done(ctx context.Context, c ClosedWindow) error { return w.settle(ctx, "done", c, -1) }

// Extend leases the window for d from now.
func (w *Store) Extend(ctx context.Context, c ClosedWindow, d time.Duration) error {
	if d < time.Millisecond || d > w.cfg.Retention {
		return fmt.Errorf("window: %s: extend by %v: must be 1ms to Config.Retention, %v", w.name, d, w.cfg.Retention)
	}
	return w.settle(ctx, "extend", c, d)
}

// Release gives the window to the next closer after a delay, 0 for at once.
func (w *Store) Release(ctx context.Context, c ClosedWindow, delay time.Duration) error {
	if delay < 0 || delay > w.cfg.Retention {
		return fmt.Errorf("window: %s: release after %v: must be 0 to Config.Retention, %v", w.name, delay, w.cfg.Retention)
	}
	return w.settle(ctx, "release", c, delay)
}

func (w *Store) settle(ctx context.Context, what string, c ClosedWindow, d time.Duration) error {
	arg := "-1"
	if what != "done" {
		arg = ms(d)
	}
	ok, err := settleScript.Exec(ctx, w.client, []string{w.prefix + "leases", w.prefix + "closed", w.prefix + "w:" + c.name},
		[]string{c.name, strconv.FormatInt(c.Attempt, 10), arg}).AsInt64()
	if err == nil && ok == 0 {
		err = ErrLeaseLost
	}
	if err != nil {
		return fmt.Errorf("window: %s: %s %q at %v: %w", w.name, what, c.Key, c.Start, err)
	}
	return nil
}
