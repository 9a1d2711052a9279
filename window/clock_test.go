package window_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
	"github.com/redis/rueidis"
)

func newClock(t testing.TB) (*redisxtest.Clock, rueidis.Client) {
	t.Helper()
	return redisxtest.NewClock(t, noon.Add(24*time.Hour))
}

// The server's clock was an hour ahead for a while, and is set right. Everything that was timed
// meanwhile takes its own time.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	w := named(t, c, "w", window.Config{Size: time.Second, Lateness: -1, Idle: time.Minute, LeaseDuration: time.Minute, Backoff: 10 * time.Second, Retention: 2 * time.Hour})
	ago := func(d time.Duration, data string) window.Event { return window.Event{At: k.Now.Add(-d), Data: data} }
	k.Set(time.Hour)
	add(t, w, "a", ago(time.Hour, "x"), ago(time.Hour-time.Second, "y"))
	add(t, w, "b", ago(time.Hour, "x"), ago(time.Hour-time.Second, "y"))
	closed := closeDue(t, w, 10)
	if len(closed) != 2 {
		t.Fatalf("got %d windows, want 2", len(closed))
	}
	if err := w.Release(t.Context(), closed[1], window.ReleaseOptions{Failure: "x"}); err != nil {
		t.Fatal(err)
	}
	add(t, w, "idle", ago(2*time.Hour, "x"))
	k.Set(-time.Hour)

	st, err := w.Stats(t.Context())
	if err != nil || st.ClockBehind != time.Hour {
		t.Errorf("got clock behind by %v, %v, want 1h", st.ClockBehind, err)
	}
	keys := func() string {
		var s []string
		for _, x := range closeDue(t, w, 10) {
			s = append(s, fmt.Sprint(x.Key, " ", x.Attempt, " ", x.Reason))
		}
		slices.Sort(s)
		return strings.Join(s, ", ")
	}
	want(t, "at once", keys(), "")
	k.Advance(10*time.Second - time.Millisecond)
	want(t, "before the backoff", keys(), "")
	k.Advance(time.Millisecond)
	want(t, "after the backoff", keys(), "b 2 watermark")
	k.Advance(50 * time.Second)
	want(t, "after the lease and the idle time", keys(), "a 1 idle, a 2 watermark, b 1 idle, idle 1 idle")
}

// Set forward, leases end early and are delivered again; nothing is lost, and what is timed
// afterwards takes its time.
func TestClockSetForward(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	w := named(t, c, "w", window.Config{Size: time.Second, Lateness: -1, Idle: 2 * time.Hour, LeaseDuration: time.Minute, Backoff: time.Minute})
	add(t, w, "k", at(0, "x"), at(time.Second, "y"))
	first := closeDue(t, w, 1)
	k.Set(time.Hour)
	want(t, "again", show(closeDue(t, w, 1)...), []string{"k 12:00:00-12:00:01 watermark 2: x"})
	k.Set(-time.Hour)
	want(t, "leased", show(closeDue(t, w, 1)...), []string{})
	k.Advance(time.Minute)
	want(t, "the backoff of the second crash", show(closeDue(t, w, 1)...), []string{})
	k.Advance(time.Minute)
	last := closeDue(t, w, 1)
	want(t, "its own lease and backoff", show(last...), []string{"k 12:00:00-12:00:01 watermark 3: x"})
	if err := w.Done(t.Context(), first[0]); err == nil {
		t.Error("the first closer ended a lease that it had lost")
	}
	if err := w.Done(t.Context(), last[0]); err != nil {
		t.Error(err)
	}
	balanced(t, w)
}

// Idle closes no window that is still running.
func TestIdleWaitsForTheEnd(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	w := named(t, c, "w", window.Config{Size: time.Hour, Idle: time.Minute})
	k.Now = noon.Add(10 * time.Minute)
	k.SetTime(k.Now)
	add(t, w, "runs", at(0, "1"))
	add(t, w, "both", at(-30*time.Minute, "before"), at(0, "now"))
	k.Advance(time.Minute)
	over := closeDue(t, w, 10)
	want(t, "what is over", show(over...), []string{"both 11:00:00-12:00:00 idle 1: before"})
	if err := w.Done(t.Context(), over[0]); err != nil {
		t.Error(err)
	}
	k.Advance(48 * time.Minute)
	want(t, "an event of this moment", add(t, w, "runs", window.Event{At: k.Now, Data: "2"}), window.AddResult{New: 1})
	k.Advance(time.Minute - time.Millisecond)
	want(t, "before the end", show(closeDue(t, w, 10)...), []string{})
	k.Advance(time.Millisecond)
	want(t, "at the end", show(closeDue(t, w, 10)...), []string{"both 12:00:00-13:00:00 idle 1: now", "runs 12:00:00-13:00:00 idle 1: 1 2"})
	want(t, "its events", show(closeDue(t, w, 10)...), []string{})
	balanced(t, w)
}

// A window that no closer took in time is gone. The log and the books say so.
func TestExpiredWindows(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	logger, lines := collect()
	cfg := window.Config{Size: time.Minute, Lateness: -1, Idle: time.Minute, Retention: time.Hour, MaxFailures: 1, Logger: logger}
	w := named(t, c, "w", cfg)
	add(t, w, "dead", at(0, "1"), at(time.Minute, "2"))
	if err := w.Release(t.Context(), closeDue(t, w, 1)[0], window.ReleaseOptions{Failure: "x"}); err != nil {
		t.Fatal(err)
	}
	k.Advance(time.Minute)
	add(t, w, "due", at(0, "1"), at(30*time.Second, "2"), at(time.Minute, "3"))
	k.Advance(time.Hour - time.Millisecond)
	if st := balanced(t, w); st.Events.Expired != 0 || st.Due != 1 || st.Dead != 1 {
		t.Errorf("got %+v, want one due and one dead window", st)
	}
	k.Advance(time.Millisecond)
	want(t, "closed", show(closeDue(t, w, 10)...), []string{})
	st := balanced(t, w)
	want(t, "events", st.Events, window.EventCounts{Added: 5, Expired: 5})
	if l := lines(); len(l) != 4 || !strings.Contains(l[0], "a window expired before any closer took it") || !strings.Contains(l[0], "key=dead start=2026-01-02 12:00:00") {
		t.Errorf("got log %q, want 4 lines", l)
	}
	k.Advance(3 * time.Hour)
	if keys := k.Keys(); len(keys) != 0 {
		t.Errorf("got keys %q, want none", keys)
	}
}

// A retry of an Add after Done counts as repeated as long as the events are remembered.
func TestAddAgainAfterDone(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	w := named(t, c, "w", window.Config{Size: time.Minute, Lateness: -1, Idle: time.Minute, Retention: 24 * time.Hour, Remember: 10 * time.Hour})
	forgets := named(t, c, "f", window.Config{Size: time.Minute, Lateness: -1, Remember: -1})
	for _, s := range []*window.Store{w, forgets} {
		add(t, s, "k", at(0, "1"), at(1, "2"), at(time.Minute, "3"))
		for _, x := range closeDue(t, s, 10) {
			if err := s.Done(t.Context(), x); err != nil {
				t.Error(err)
			}
		}
	}
	want(t, "remembered", add(t, w, "k", at(0, "1"), at(1, "2"), at(1, "new")), window.AddResult{Repeated: 2, Late: 1})
	want(t, "not remembered", add(t, forgets, "k", at(0, "1"), at(1, "2")), window.AddResult{Late: 2})
	k.Advance(10*time.Hour - time.Millisecond)
	closeDue(t, w, 10)
	want(t, "until then", add(t, w, "k", at(0, "1")), window.AddResult{Repeated: 1})
	k.Advance(time.Millisecond)
	closeDue(t, w, 10)
	want(t, "forgotten", add(t, w, "k", at(0, "1")), window.AddResult{Late: 1})
	balanced(t, w)
	balanced(t, forgets)
}

// The seed of the buckets outlives the sliding sets, however short the retention is: an event that
// is added again is known, also to a program that has started since.
func TestSeedOutlivesTheSlidingSet(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	cfg := window.Config{Keep: 72 * time.Hour, Retention: time.Hour}
	name := servertest.Prefix(t)
	events := many(4000, 0)
	add(t, named(t, c, name, cfg), "k", events...)
	k.Advance(3 * time.Hour)
	w := named(t, c, name, cfg)
	want(t, "again", add(t, w, "k", events...), window.AddResult{Repeated: 4000})
	n, err := w.LastCount(t.Context(), "k", 72*time.Hour)
	if err != nil || n != 4000 {
		t.Errorf("got %d events, %v, want 4000", n, err)
	}
}

// A window whose record was deleted while a closer had it leaves no key that never expires.
func TestDeletedRecordOfALeasedWindow(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	name := servertest.Prefix(t)
	logger, lines := collect()
	w := named(t, c, name, window.Config{Size: time.Minute, Lateness: -1, Logger: logger})
	add(t, w, "k", at(0, "x"), at(60*time.Second, "y"))
	want(t, "closed", len(closeDue(t, w, 1)), 1)
	info := "{" + name + "}:window:info:" + windowName(0, time.Minute, "k")
	k.Del(info)
	k.Advance(2 * window.DefaultLeaseDuration)
	want(t, "due", show(closeDue(t, w, 10)...), []string{"k 12:01:00-12:02:00 idle 1: y"})
	if k.Exists(info) {
		t.Errorf("%s is there again, and expires after %v", info, k.TTL(info))
	}
	if l := lines(); len(l) != 1 || !strings.Contains(l[0], "expired before any closer took it") {
		t.Errorf("got log %q, want one line", l)
	}
}

// Late events leave at the end of the retention, even if no event arrives late any more.
func TestLateEventsLeaveWithoutAnAdd(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	w := named(t, c, "w", window.Config{Size: time.Minute, Lateness: -1, Retention: time.Hour})
	add(t, w, "k", at(time.Hour, "1"))
	want(t, "late", add(t, w, "k", at(0, "2")), window.AddResult{Late: 1})
	late := func() int {
		t.Helper()
		closeDue(t, w, 10)
		page, _, err := w.Late(t.Context(), "", 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(page)
	}
	k.Advance(time.Hour - time.Millisecond)
	want(t, "late events before the end of the retention", late(), 1)
	k.Advance(time.Millisecond)
	want(t, "late events after it", late(), 0)
}
