package matview

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/headrace/headrace/internal/errorlog"
	"github.com/headrace/headrace/internal/pgschema"
)

// schedule is when Run refreshes next. Its zero value has nothing to do.
type schedule struct {
	mu    sync.Mutex
	first time.Time // of the notices since the last refresh began; zero: none
	last  time.Time

	again map[string]bool // the views that failed, and those that they read
	retry time.Time       // when they are refreshed again; zero: none failed
	pause time.Duration   // before the retry

	wake chan struct{}
}

// note records a notice.
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

// next is when the next refresh is due, and of which views. The time is zero if nothing is due. The
// views are nil for a refresh of all of them.
func (s *schedule) next(debounce, staleness time.Duration) (at time.Time, views map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at = s.due(debounce, staleness)
	if !s.retry.IsZero() && (at.IsZero() || s.retry.Before(at)) {
		return s.retry, s.again
	}
	return at, nil
}

// nextOf is when the view is refreshed next, zero if that is not due.
func (s *schedule) nextOf(view string, debounce, staleness time.Duration) time.Time {
	at, views := s.next(debounce, staleness)
	if views == nil || views[view] {
		return at
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.due(debounce, staleness)
}

// due is when a refresh of all views is due, zero if nothing has changed: when no notice has come
// for the debounce time, but no later than the staleness allows. The caller holds the mutex.
func (s *schedule) due(debounce, staleness time.Duration) time.Time {
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

// end records the result of a refresh: the views that have to be refreshed again, nil if none
// failed. Each failure doubles the pause before the next retry.
func (s *schedule) end(at time.Time, again map[string]bool, debounce, staleness time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.again = again; len(again) == 0 {
		s.retry, s.pause = time.Time{}, 0
		return
	}
	s.pause = min(max(debounce, 2*s.pause), staleness)
	s.retry = at.Add(s.pause)
}

// Notify reports that the tables under the views have changed, for example after a promotion. It
// returns at once. [Refresher.Run] refreshes the views when no further notice has come for
// Config.Debounce, but no later than Config.MaxStaleness after the first one.
func (r *Refresher) Notify() { r.schedule.note(time.Now()) }

// Run refreshes all views until ctx is done, then returns nil. It refreshes once when it begins,
// because it cannot know what changed before, and then after the notices of [Refresher.Notify]. A
// refresh that is under way when ctx ends is cancelled on the server, and its view stays as it was.
//
// Errors go to Config.Logger. Run retries the views that failed, with those that they read, after
// Config.Debounce. Each further failure doubles that pause, up to Config.MaxStaleness. The other
// views are not refreshed again. A notice ends the pause: all views are refreshed after it. Only a
// pool that the program has closed ends Run early, with an error.
func (r *Refresher) Run(ctx context.Context) error {
	r.Notify()
	log := errorlog.New(r.cfg.Logger, "matview: ", "state", r.state)
	for {
		var timer <-chan time.Time
		due, retry := r.schedule.next(r.cfg.Debounce, r.cfg.MaxStaleness)
		if !due.IsZero() {
			timer = time.After(time.Until(due))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.schedule.wake:
			continue
		case <-timer:
		}
		if retry == nil || len(retry) == len(r.views) {
			r.schedule.begin()
		}
		report, err := r.Refresh(ctx, slices.Collect(maps.Keys(retry))...)
		var again map[string]bool
		if err != nil && ctx.Err() == nil {
			if pgschema.IsClosed(err) {
				return fmt.Errorf("matview: the refresher has stopped: %w", err)
			}
			again = r.again(report)
		}
		if ctx.Err() == nil {
			log.Report(ctx, "refreshing views", err)
		}
		r.schedule.end(time.Now(), again, r.cfg.Debounce, r.cfg.MaxStaleness)
	}
}

// again is what a retry has to refresh after a run that failed: all views, if the run did not get
// as far as the views.
func (r *Refresher) again(report RefreshReport) map[string]bool {
	var failed []string
	for _, v := range report.Views {
		if v.Err != nil {
			failed = append(failed, v.View)
		}
	}
	views, err := r.closure(failed)
	if err != nil {
		panic("matview: a report has a view that is not in the configuration: " + err.Error())
	}
	return views
}
