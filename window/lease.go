package window

import (
	"context"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxReason bounds the stored ReleaseOptions.Failure, in bytes. A longer one is truncated.
const MaxReason = 1000

// ReleaseOptions are the options of [Store.Release].
type ReleaseOptions struct {
	// Delay is how long the window waits before it is due again. 0: at once or, after a Failure,
	// Config.Backoff.
	Delay time.Duration
	// Failure is the closer's error. It counts as a failure, and the last one is stored, truncated to
	// MaxReason bytes. "": nothing is counted, because the closer shuts down or its sink is
	// unavailable.
	Failure string
}

// Done ends the lease of a window whose result is safe. It takes one round trip, as do Extend and
// Release. It returns [ErrLeaseLost] if another closer holds the window, or has held it and is
// done. The same events then have two results, which share the idempotency key of [ClosedWindow].
func (s *Store) Done(ctx context.Context, c ClosedWindow) error {
	_, err := s.settle(ctx, "done", c, s.cfg.Remember, "")
	return err
}

// Extend makes the lease expire d from now. In a handler of [Store.Run] it also extends the
// handler's context. It returns [ErrLeaseLost] if the caller no longer holds the lease.
func (s *Store) Extend(ctx context.Context, c ClosedWindow, d time.Duration) error {
	if d < time.Millisecond || d > s.cfg.Retention {
		return s.argument("extend by %v, must be 1ms to Config.Retention, %v", d, s.cfg.Retention)
	}
	deadline := time.Now().Add(d - time.Millisecond)
	if _, err := s.settle(ctx, "extend", c, d, ""); err != nil {
		return err
	}
	if l, ok := s.leases.Load(c.lease()); ok {
		l.(*leaseContext).endAt(deadline)
	}
	return nil
}

// Release gives a window back. A window that has failed Config.MaxFailures times moves to the
// dead-letter list. It returns [ErrLeaseLost] if the caller no longer holds the lease.
func (s *Store) Release(ctx context.Context, c ClosedWindow, o ReleaseOptions) error {
	if o.Delay < 0 || o.Delay > s.cfg.Retention {
		return s.argument("release after %v, must be 0 to Config.Retention, %v", o.Delay, s.cfg.Retention)
	}
	_, err := s.settle(ctx, "release", c, o.Delay, cut(o.Failure))
	return err
}

// cut keeps text bounded and valid UTF-8.
func cut(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= MaxReason {
		return text
	}
	n := MaxReason
	for !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// leaseID names one lease of a window.
type leaseID struct {
	window  string
	attempt int64
}

func (c ClosedWindow) lease() leaseID { return leaseID{c.name, c.Attempt} }

func (s *Store) settle(ctx context.Context, op string, c ClosedWindow, d time.Duration, failure string) (buried bool, err error) {
	r, err := s.run(ctx, settleScript, true, op, c.name, strconv.FormatInt(c.Attempt, 10), ms(d), failure,
		ms(s.cfg.Backoff), ms(s.cfg.MaxBackoff), strconv.Itoa(s.cfg.MaxFailures))
	var result int64
	if err == nil {
		result, err = r.AsInt64()
	}
	if err == nil && result == 0 {
		err = ErrLeaseLost
	}
	if err != nil {
		return false, s.wrap(op+" "+strconv.Quote(c.Key)+" at "+c.Start.Format(time.RFC3339Nano), err)
	}
	return result == 2, nil
}
