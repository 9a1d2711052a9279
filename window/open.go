package window

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/headrace/headrace/internal/redisx"
)

// OpenWindow is a tumbling window that still accepts events.
type OpenWindow struct {
	Key        string
	Start, End time.Time
	// Events is the number of its events.
	Events int64

	name string
}

// OpenWindows returns the n open windows of a key that end first after a given time, in order of
// their end. It adds those that end at the same time as the last one, so there may be more than n.
// Start with the zero time, and continue with the End of the last window.
func (s *Store) OpenWindows(ctx context.Context, key string, after time.Time, n int) ([]OpenWindow, error) {
	if err := s.tumbling(); err != nil {
		return nil, err
	}
	if err := s.checkKey(key); err != nil {
		return nil, err
	}
	if n < 1 || n > MaxPage {
		return nil, s.argument("n is %d, must be 1 to %d", n, MaxPage)
	}
	r, err := s.run(ctx, listScript, false, key, strconv.FormatInt(max(0, redisx.UnixMilli(after)), 10), strconv.Itoa(n))
	v, err := array(r, err, 0)
	if err != nil {
		return nil, s.wrap("open windows", err)
	}
	out := make([]OpenWindow, len(v))
	for i, m := range v {
		pair, err := m.ToArray()
		if err != nil || len(pair) != 2 {
			return nil, s.wrap("open windows", fmt.Errorf("unexpected reply: got %d elements, want 2: %w", len(pair), err))
		}
		if out[i].name, err = pair[0].ToString(); err != nil {
			return nil, s.wrap("open windows", err)
		}
		if out[i].Events, err = pair[1].AsInt64(); err != nil {
			return nil, s.wrap("open windows", err)
		}
		w, err := parseName(out[i].name)
		if err != nil {
			return nil, s.wrap("open windows", err)
		}
		out[i].Key, out[i].Start, out[i].End = w.key, w.start, w.end
	}
	return out, nil
}

// ReadOpen returns the present events of an open window, in the order of time and data.
func (s *Store) ReadOpen(ctx context.Context, w OpenWindow) ([]Event, error) {
	entries, err := s.all(ctx, eventSet{kind: "events", name: w.name}, "-inf", "+inf")
	if err != nil {
		return nil, s.wrap("read", err)
	}
	return toEvents(entries), nil
}
