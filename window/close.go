package window

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/redis/rueidis"
)

// MaxClose is the largest number of windows that one call of [Store.CloseDue] leases.
const MaxClose = 1000

// maxRounds is how many scripts one call of CloseDue runs at most: many idle keys may have windows
// that still run.
const maxRounds = 100

// maxScriptWindows is how many windows one script leases at most.
const maxScriptWindows = 100

// Reason is why a window was closed, or why an event was set aside.
type Reason string

const (
	// ReasonWatermark means that the newest event of the key is past the window's end by Lateness.
	ReasonWatermark Reason = "watermark"
	// ReasonIdle means that the key received no event for Config.Idle.
	ReasonIdle Reason = "idle"
	// ReasonClosed means that the window is closed, although the watermark of the key has expired.
	ReasonClosed Reason = "closed"
	// ReasonAhead means that the event is further than Config.MaxAhead ahead of the server's clock.
	ReasonAhead Reason = "ahead"
	// ReasonOld means that the event is too old for the sliding window.
	ReasonOld Reason = "old"
	// ReasonUnknown means that the entry was not written by this package, or that the reason was
	// deleted.
	ReasonUnknown Reason = "unknown"
)

// ClosedWindow is a complete tumbling window: its events do not change any more. The name of the
// store, Key, Start and End form an idempotency key, for a closer that writes its result elsewhere
// and dies before [Store.Done].
type ClosedWindow struct {
	Key        string
	Start, End time.Time
	// Reason is ReasonWatermark or ReasonIdle.
	Reason Reason
	// Attempt counts the leases of the window, this one included. It is the fencing token of the
	// lease.
	Attempt int64
	// Deadline is when the lease expires, by this process's clock. It is measured from before the
	// call, so it is early rather than late.
	Deadline time.Time
	// Events in the order of time and data.
	Events []Event

	name string
}

// windowName is a window's name in every key: start, size, key.
type windowName struct {
	key        string
	start, end time.Time
}

func parseName(name string) (windowName, error) {
	start, rest, _ := strings.Cut(name, " ")
	size, key, ok := strings.Cut(rest, " ")
	from, err1 := strconv.ParseInt(start, 10, 64)
	length, err2 := strconv.ParseInt(size, 10, 64)
	const most = 1<<53 - 1 // what the scripts count with
	if err1 != nil || err2 != nil || !ok || from < 0 || from > most || length < 1 || length > most {
		return windowName{}, fmt.Errorf("invalid window name %q", name)
	}
	return windowName{key: key, start: time.UnixMilli(from).UTC(), end: time.UnixMilli(from + length).UTC()}, nil
}

// taken is the reply of take.lua.
type taken struct {
	expired []string
	leased  []ClosedWindow
	events  []int64 // how many each of leased has
	more    bool    // there may be more idle keys, whose windows are due after the next call
}

// CloseDue leases up to n complete windows, the longest due first, and reads their events. Call
// [Store.Done] for each when its result is safe. CloseDue takes one round trip for every 100
// windows or 20 idle keys, at most 100 of them, and one for every 1,000 events or 1 MiB of a
// window. After an error, the windows that were leased are due again at once, except one whose
// events could not be read: that is its failure, and it waits for the end of its lease. If Redis
// does not answer, all of them wait.
func (s *Store) CloseDue(ctx context.Context, n int) ([]ClosedWindow, error) {
	if err := s.tumbling(); err != nil {
		return nil, err
	}
	if n < 1 || n > MaxClose {
		return nil, s.argument("n is %d, must be 1 to %d", n, MaxClose)
	}
	var closed []ClosedWindow
	for round := 0; n > 0 && round < maxRounds; round++ {
		some := min(n, maxScriptWindows)
		t, err := s.take(ctx, some)
		if err != nil {
			s.giveBack(ctx, closed)
			return nil, s.wrap("close", err)
		}
		for i, c := range t.leased {
			complete, err := s.readClosed(ctx, &c, t.events[i])
			if err != nil {
				rest := t.leased[i+1:]
				if ctx.Err() != nil {
					rest = t.leased[i:]
				}
				s.giveBack(ctx, slices.Concat(closed, rest))
				return nil, s.wrap("close", err)
			}
			if complete {
				closed = append(closed, c)
			}
		}
		n -= len(t.leased)
		if len(t.leased) < some && !t.more {
			break
		}
	}
	return closed, nil
}

// giveBack makes leased windows due again that no closer gets. Nothing counts against them.
func (s *Store) giveBack(ctx context.Context, windows []ClosedWindow) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	for _, c := range windows {
		if err := s.Release(ctx, c, ReleaseOptions{}); err != nil && !errors.Is(err, ErrLeaseLost) {
			return // the server is away: the leases will expire
		}
	}
}

// replyGrace is how long take waits for its reply after its context is done: the windows in it are
// leased.
const replyGrace = time.Second

func (s *Store) take(caller context.Context, n int) (t taken, err error) {
	if err := caller.Err(); err != nil {
		return t, err
	}
	ctx, cancel := redisx.Outlive(caller, replyGrace)
	defer cancel()
	deadline := time.Now().Add(s.cfg.LeaseDuration - time.Millisecond) // before the server starts its clock; that counts whole milliseconds
	c := s.cfg
	r, err := s.run(ctx, takeScript, true, strconv.Itoa(n), ms(c.LeaseDuration), ms(c.Idle), ms(c.Backoff), ms(c.MaxBackoff), strconv.Itoa(c.MaxFailures))
	v, err := array(r, err, 3)
	if err != nil {
		return t, err
	}
	more, err := v[2].AsInt64()
	if err != nil {
		return t, err
	}
	t.more = more == 1
	if t.expired, err = v[0].AsStrSlice(); err != nil {
		return t, err
	}
	for _, name := range t.expired {
		w, err := parseName(name)
		if err != nil {
			c.Logger.ErrorContext(ctx, "window: removed an entry that names no window", "window", s.name, "entry", name)
			continue
		}
		c.Logger.ErrorContext(ctx, "window: a window expired before any closer took it",
			"window", s.name, "key", w.key, "start", w.start, "end", w.end)
	}
	leased, err := v[1].ToArray()
	if err != nil {
		return t, err
	}
	for _, m := range leased {
		w, n, err := parseLeased(m)
		if err != nil {
			return t, err
		}
		w.Deadline = deadline
		t.leased, t.events = append(t.leased, w), append(t.events, n)
	}
	return t, nil
}

func parseLeased(m rueidis.RedisMessage) (c ClosedWindow, events int64, err error) {
	v, err := m.ToArray()
	if err == nil && len(v) != 4 {
		err = fmt.Errorf("unexpected reply: got %d elements, want 4", len(v))
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
	if events, err = v[3].AsInt64(); err != nil {
		return c, 0, err
	}
	w, err := parseName(c.name)
	c.Reason, c.Key, c.Start, c.End = Reason(reason), w.key, w.start, w.end
	return c, events, err
}

// readClosed reads the events of a window that was leased. false: the caller does not get it.
func (s *Store) readClosed(ctx context.Context, c *ClosedWindow, want int64) (bool, error) {
	entries, err := s.all(ctx, eventSet{kind: "events", name: c.name}, "-inf", "+inf")
	otherType := isWrongType(err)
	if err != nil && !otherType {
		return false, err
	}
	if !otherType && int64(len(entries)) == want {
		c.Events = toEvents(entries)
		return true, nil
	}
	// Either the lease has expired and another closer is done with the window, or events are gone.
	// What is left of it would give a wrong result.
	done, err := s.repairOne(ctx, c.name)
	if err != nil || done == "" {
		return false, err
	}
	s.cfg.Logger.ErrorContext(ctx, "window: a window lost events", "window", s.name, "key", c.Key, "start", c.Start, "action", done)
	return false, nil
}
