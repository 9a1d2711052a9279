package window_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
	"github.com/redis/rueidis"
)

// What is older than Keep has left the sliding window, whether or not anything was added since.
func TestOlderThanKeep(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	w := named(t, c, "w", window.Config{Keep: time.Minute})
	var old []window.Event
	for i := range 5000 { // more than one Add trims, in buckets
		old = append(old, window.Event{At: k.Now, Data: fmt.Sprint(i)})
	}
	add(t, w, "k", old...)
	k.Set(time.Second)
	add(t, w, "k", window.Event{At: k.Now, Data: "new"})
	counts := func() string {
		t.Helper()
		from, to := noon, k.Now.Add(time.Hour)
		n, err1 := w.Count(t.Context(), "k", from, to)
		all, err2 := w.Range(t.Context(), "k", from, to)
		page, _, err3 := w.RangePage(t.Context(), "k", from, to, "", 1000)
		last, err4 := w.LastCount(t.Context(), "k", time.Minute)
		for _, err := range []error{err1, err2, err3, err4} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return fmt.Sprintf("count %d, range %d, page %v, last %d", n, len(all), len(page) > 0 && page[0].Data != "new", last)
	}
	k.Set(59*time.Second - time.Millisecond)
	want(t, "a millisecond before", counts(), "count 5001, range 5001, page true, last 5001")
	k.Set(time.Millisecond)
	want(t, "at Keep", counts(), "count 1, range 1, page false, last 1")
	add(t, w, "k", window.Event{At: k.Now, Data: "newer"})
	want(t, "after an Add that trims some", counts(), "count 2, range 2, page false, last 2")
}

// A cursor of an earlier range leads to no event before the one that is read.
func TestCursorOfAnEarlierRange(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, n := range []int{20, 4000} { // one key, and buckets
			w := newStore(t, c, window.Config{Keep: time.Hour})
			first := time.Now().Add(-time.Minute).Truncate(time.Millisecond)
			var events []window.Event
			for i := range n {
				events = append(events, window.Event{At: first.Add(time.Duration(i%20) * time.Millisecond), Data: fmt.Sprint(i)})
			}
			add(t, w, "k", events...)
			_, cursor, err := w.RangePage(t.Context(), "k", first, first.Add(time.Second), "", 3)
			if err != nil {
				t.Fatal(err)
			}
			from := first.Add(10 * time.Millisecond)
			got := 0
			for cursor != "" {
				var page []window.Event
				if page, cursor, err = w.RangePage(t.Context(), "k", from, first.Add(time.Second), cursor, 700); err != nil {
					t.Fatal(err)
				}
				got += len(page)
				if i := slices.IndexFunc(page, func(e window.Event) bool { return e.At.Before(from) }); i >= 0 {
					t.Fatalf("%d events: got one at %v, want none before %v", n, page[i].At, from)
				}
			}
			want(t, "events from there on", got, n/2)
		}
	})
}

// The same data twice in one Add counts once, at its first time.
func TestTwiceInOneAdd(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, more := range []int{0, 3000} { // one key, and buckets
			w := newStore(t, c, window.Config{Size: time.Hour, Lateness: -1, Idle: time.Hour, Keep: 366 * 24 * time.Hour, MaxAhead: time.Hour, Retention: 366 * 24 * time.Hour})
			var events []window.Event
			for i := range more {
				events = append(events, at(time.Minute, fmt.Sprint("more", i)))
			}
			add(t, w, "k", events...)
			want(t, "added", add(t, w, "k", at(2*time.Second, "x"), at(time.Second, "x"), at(3*time.Second, "x"), at(3*time.Second, "y")), window.AddResult{New: 2, Repeated: 2})
			open, err := w.OpenWindows(t.Context(), "k", time.Time{}, 1)
			if err != nil || len(open) != 1 {
				t.Fatalf("got %v, %v, want one window", open, err)
			}
			tumbling, err := w.ReadOpen(t.Context(), open[0])
			if err != nil {
				t.Fatal(err)
			}
			sliding, err := w.Range(t.Context(), "k", noon, noon.Add(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			for _, got := range [][]window.Event{tumbling[:2], sliding} {
				want(t, "events", got, []window.Event{at(time.Second, "x"), at(3*time.Second, "y")})
			}
		}
	})
}

// A watermark never goes back: a window that was closed and forgotten does not open again when a
// program has a larger Lateness.
func TestLatenessGrows(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		logger, lines := collect()
		cfg := window.Config{Size: time.Minute, Lateness: -1, Idle: time.Hour, Remember: -1, Logger: logger}
		w := named(t, c, name, cfg)
		add(t, w, "k", at(0, "x"), at(30*time.Second, "y"), at(2*time.Minute, "z"))
		for _, x := range closeDue(t, w, 10) {
			if err := w.Done(t.Context(), x); err != nil {
				t.Fatal(err)
			}
		}
		want(t, "log", lines(), []string(nil))
		cfg.Lateness = time.Hour
		larger := named(t, c, name, cfg)
		l := lines()
		if len(l) != 1 || !strings.Contains(l[0], "another configuration") || !strings.Contains(l[0], "field=Config.Lateness this=1h0m0s other=0s") {
			t.Errorf("got log %q, want one line with both values", l)
		}
		want(t, "an event of a closed window", add(t, larger, "k", at(10*time.Second, "late")), window.AddResult{Late: 1})
		want(t, "late", lates(t, larger), []string{"k 12:00:10 late watermark"})
		add(t, larger, "k", at(5*time.Minute, "later"))
		want(t, "open for longer", add(t, larger, "k", at(2*time.Minute, "in time")), window.AddResult{New: 1})
		want(t, "open for longer, to a program of the smaller lateness", add(t, w, "k", at(2*time.Minute, "late")), window.AddResult{Late: 1})
		want(t, "closed by that", show(closeDue(t, w, 10)...), []string{"k 12:02:00-12:03:00 watermark 1: in time z"})
		balanced(t, w)
	})
}

// A program that started with a smaller size keeps the windows of a larger one until they close.
func TestLargerSizeOutlivesASmallRetention(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	small := named(t, c, "w", window.Config{Size: time.Minute, Lateness: -1, Idle: time.Minute, Retention: 10 * time.Minute})
	large := named(t, c, "w", window.Config{Size: 3 * time.Hour, Lateness: -1, Idle: time.Minute, Retention: 24 * time.Hour})
	add(t, small, "k", window.Event{At: k.Now, Data: "x"})
	k.Advance(3 * time.Hour)
	closed := closeDue(t, large, 10)
	want(t, "closed", len(closed), 1)
	want(t, "size", closed[0].End.Sub(closed[0].Start), 3*time.Hour)
	balanced(t, small)
}

// One event closes every window that the watermark passes with it, also more than one script does.
func TestWatermarkPassesManyWindows(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		w := newStore(t, c, window.Config{Size: time.Second, Lateness: time.Hour, Idle: 24 * time.Hour})
		var events []window.Event
		for i := range 450 {
			events = append(events, at(time.Duration(i)*time.Second, "x"))
		}
		add(t, w, "k", events...)
		want(t, "added", add(t, w, "k", at(3*time.Hour, "x")), window.AddResult{New: 1})
		want(t, "closed", len(closeDue(t, w, 1000)), 450)
		if st := balanced(t, w); st.Events.Open != 1 {
			t.Errorf("got %d events in open windows, want 1", st.Events.Open)
		}
	})
}

// CloseDue takes n windows of idle keys if there are as many.
func TestManyIdleKeys(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	w := named(t, c, "w", window.Config{Size: time.Second, Idle: time.Minute})
	for i := range 250 {
		add(t, w, fmt.Sprint("k", i), window.Event{At: k.Now, Data: "x"})
		add(t, w, fmt.Sprint("runs", i), window.Event{At: k.Now.Add(3 * time.Minute), Data: "x"})
	}
	k.Advance(2 * time.Minute)
	want(t, "closed", len(closeDue(t, w, 230)), 230)
	want(t, "the others", len(closeDue(t, w, 1000)), 20)
	balanced(t, w)
}
