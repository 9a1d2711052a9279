package matview

import (
	"context"
	"sync"
	"time"
)

// schedule is when Run refreshes next. Its zero value has nothing to do.
type schedule struct {
	mu    sync.Mutex
	first time.Time // of the notices since the last refresh began; zero: none
	last  time.Time
	wake  chan struct{}
}

// note takes a notice in.
func (s *schedule) note(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first.IsZero() {
		s.first = at
	}
	s.last = at
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// due is when the next refresh is due, zero if nothing has changed: when no notice has come for the
// debounce time, but no later than the staleness allows.
func (s *schedule) due(debounce, staleness time.Duration) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first.IsZero() {
		return time.Time{}
	}
	quiet, latest := s.last.Add(debounce), s.first.Add(staleness)
	if latest.Before(quiet) {
		return latest
	}
	return quiet
}

// begin forgets the notices: the refresh that begins now covers them.
func (s *schedule) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first, s.last = time.Time{}, time.Time{}
}

// Notify reports that the tables under the views have changed, for example after a promotion. It
// returns at once. [Refresher.Run] refreshes the views when no further notice has come for
// Config.Debounce, but no later than Config.MaxStaleness after the first one.
func (r *Refresher) Notify() { r.schedule.note(time.Now()) }

// Run refreshes all views until ctx is done, then returns nil. A refresh that is under way then is
// cancelled on the server, and its view stays as it was. Errors go to Config.Logger, and the
// refresh is tried again after the debounce time. Run refreshes once when it begins: it cannot know
// what changed before.
func (r *Refresher) Run(ctx context.Context) error {
	r.Notify()
	for {
		var timer <-chan time.Time
		if due := r.schedule.due(r.cfg.Debounce, r.cfg.MaxStaleness); !due.IsZero() {
			timer = time.After(time.Until(due))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.schedule.wake:
			continue
		case <-timer:
		}
		r.schedule.begin()
		if _, err := r.Refresh(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Logger.ErrorContext(ctx, "matview: refresh failed", "error", err)
			r.Notify()
		}
	}
}
