package ops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/window"
)

// Window is a store of windows: how many are where, and what was set aside.
type Window struct {
	Name      string  `json:"window"`
	Used      bool    `json:"used"` // false: no program has used the name yet
	Balanced  bool    `json:"balanced"`
	OpenKeys  int64   `json:"open_keys"`
	Due       int64   `json:"due"`
	OldestDue float64 `json:"oldest_due_seconds"`
	Leased    int64   `json:"leased"`
	Dead      int64   `json:"dead"`
	Late      int64   `json:"late_events"`
	Events    int64   `json:"events"`

	off error // of its books
}

// Windows counts the windows of each name.
func Windows(ctx context.Context, redis rueidis.Client, names []string) ([]Window, error) {
	list := []Window{}
	for _, name := range names {
		r, err := window.Open(ctx, redis, name)
		if errors.Is(err, window.ErrMissing) {
			list = append(list, Window{Name: name, Balanced: true})
			continue
		}
		if err != nil {
			return nil, err
		}
		s, err := r.Stats(ctx)
		if err != nil {
			return nil, err
		}
		w := Window{
			Name: name, Used: true, OpenKeys: s.Keys, Due: s.Due, OldestDue: s.OldestDue.Seconds(), Leased: s.Leased, Dead: s.Dead,
			Late: s.Late, Events: s.Events.Added,
		}
		if err := s.Balanced(); err != nil {
			w.off = fmt.Errorf("windows %s: %w", name, err)
		}
		w.Balanced = w.off == nil
		list = append(list, w)
	}
	return list, nil
}

// Text is the state of the windows in one sentence.
func (w Window) Text() string {
	if !w.Used {
		return w.Name + ": not used yet"
	}
	due := fmt.Sprint("due ", w.Due)
	if w.Due > 0 {
		due += fmt.Sprintf(" (for up to %v)", time.Duration(w.OldestDue*float64(time.Second)).Round(time.Millisecond))
	}
	return fmt.Sprintf("%s: open keys %d, %s, leased %d, dead %d, late events %d, events %d", w.Name, w.OpenKeys, due, w.Leased, w.Dead, w.Late, w.Events)
}
