package window

import (
	"context"
	"time"
)

// DeadWindow is a window that failed Config.MaxFailures times. It stays for Config.Retention.
type DeadWindow struct {
	Key        string
	Start, End time.Time
	// Reason is why the window was closed.
	Reason Reason
	// Attempts counts its leases and Failures its failures. Failure is the last failure.
	Attempts, Failures int64
	Failure            string
	// Events is the number of its events; see [Store.ReadDead].
	Events int64

	name string
}

// DeadWindows returns up to n dead windows, oldest first, and the cursor of the next page. The
// first cursor is ""; the last page returns "".
func (s *Store) DeadWindows(ctx context.Context, cursor string, n int) (page []DeadWindow, next string, err error) {
	entries, next, err := s.nextPage(ctx, eventSet{kind: "dead"}, "-inf", "+inf", cursor, n)
	if err != nil {
		return nil, "", s.wrap("dead windows", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.member
	}
	all, err := s.describe(ctx, names)
	if err != nil {
		return nil, "", s.wrap("dead windows", err)
	}
	for i, d := range all {
		if d.state != "dead" {
			continue // it was requeued or discarded meanwhile
		}
		w, err := parseName(names[i])
		if err != nil {
			return nil, "", s.wrap("dead windows", err)
		}
		page = append(page, DeadWindow{
			Key: w.key, Start: w.start, End: w.end, Reason: Reason(d.reason), Attempts: d.attempts, Failures: d.failures, Failure: d.failure,
			Events: d.events, name: names[i],
		})
	}
	return page, next, nil
}

// ReadDead returns the events of a dead window, in the order of time and data.
func (s *Store) ReadDead(ctx context.Context, w DeadWindow) ([]Event, error) {
	entries, err := s.all(ctx, eventSet{kind: "events", name: w.name}, "-inf", "+inf")
	if err != nil {
		return nil, s.wrap("read", err)
	}
	return toEvents(entries), nil
}

// Requeue makes dead windows due again, with no failures. It returns how many of them were in the
// dead-letter list.
func (s *Store) Requeue(ctx context.Context, windows ...DeadWindow) (int, error) {
	return s.endDead(ctx, "requeue", windows)
}

// Discard deletes dead windows and their events. It returns how many of them were in the
// dead-letter list.
func (s *Store) Discard(ctx context.Context, windows ...DeadWindow) (int, error) {
	return s.endDead(ctx, "discard", windows)
}

func (s *Store) endDead(ctx context.Context, op string, windows []DeadWindow) (int, error) {
	sum := 0
	for len(windows) > 0 {
		some := min(len(windows), maxScriptWindows)
		args := []string{op}
		for _, w := range windows[:some] {
			args = append(args, w.name)
		}
		r, err := s.run(ctx, deadScript, true, args...)
		var n int64
		if err == nil {
			n, err = r.AsInt64()
		}
		if err != nil {
			return sum, s.wrap(op, err)
		}
		sum, windows = sum+int(n), windows[some:]
	}
	return sum, nil
}
