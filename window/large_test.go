package window_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
	"github.com/redis/rueidis"
)

// many makes events of one hour, many of a millisecond.
func many(n int, spread time.Duration) []window.Event {
	out := make([]window.Event, n)
	for i := range out {
		offset := time.Duration(0)
		if spread > 0 {
			offset = (time.Duration(i*7919) * time.Millisecond) % spread
		}
		out[i] = at(offset, fmt.Sprintf("event %06d", i))
	}
	return out
}

// sorted is the order in which events are read.
func sorted(events []window.Event) []window.Event {
	out := slices.Clone(events)
	slices.SortFunc(out, func(a, b window.Event) int {
		if d := a.At.Compare(b.At); d != 0 {
			return d
		}
		return strings.Compare(a.Data, b.Data)
	})
	return out
}

// A window of any size, and any density, is what was added: once, in order, repeated adds known,
// late ones too.
func TestLargeWindow(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, spread := range []time.Duration{0, 3 * time.Millisecond, 59 * time.Minute} {
			w := newStore(t, c, window.Config{Size: time.Hour, Lateness: -1, Remember: time.Hour})
			events := many(7000, spread)
			want(t, "new", add(t, w, "k", events[:3000]...), window.AddResult{New: 3000})
			want(t, "more", add(t, w, "k", events[2000:]...), window.AddResult{New: 4000, Repeated: 1000})
			open, err := w.OpenWindows(t.Context(), "k", time.Time{}, 10)
			if err != nil || len(open) != 1 || open[0].Events != 7000 || !open[0].Start.Equal(noon) {
				t.Fatalf("got open windows %+v, %v, want one of 7000 events", open, err)
			}
			read, err := w.ReadOpen(t.Context(), open[0])
			if err != nil {
				t.Fatal(err)
			}
			want(t, "open", read, sorted(events))
			add(t, w, "k", at(time.Hour, "end"))
			closed := closeDue(t, w, 1)
			if len(closed) != 1 {
				t.Fatalf("got %d windows, want 1", len(closed))
			}
			want(t, "closed", closed[0].Events, sorted(events))
			if err := w.Done(t.Context(), closed[0]); err != nil {
				t.Error(err)
			}
			want(t, "again", add(t, w, "k", events...), window.AddResult{Repeated: 7000})
			want(t, "late", add(t, w, "k", at(0, "late")), window.AddResult{Late: 1})
			balanced(t, w)
		}
	})
}

// No key is large, so none is expensive to free when it expires, and they expire apart.
func TestNoLargeKey(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	w := named(t, c, name, window.Config{Size: time.Hour, Keep: 366 * 24 * time.Hour})
	const n = 60_000
	events := many(n, 0)
	want(t, "added", add(t, w, "k", events...), window.AddResult{New: n})
	add(t, w, "k", at(2*time.Hour, "end"))
	add(t, w, "k", events[:0]...)
	late := many(n/4, 0)
	for i := range late {
		late[i].Data = fmt.Sprint("late ", i)
	}
	want(t, "late", add(t, w, "k", late...), window.AddResult{Late: len(late)})
	keys, err := c.Do(t.Context(), c.B().Keys().Pattern("{"+name+"}:window:*").Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	soonest, latest := map[string]int64{}, map[string]int64{}
	for _, k := range keys {
		kind := strings.TrimPrefix(k, "{"+name+"}:window:")
		if i := strings.IndexAny(kind, ".:"); i >= 0 {
			kind = kind[:i]
		}
		if kind != "events" && kind != "slide" && kind != "late" {
			continue
		}
		size, err := c.Do(t.Context(), c.B().Zcard().Key(k).Build()).AsInt64()
		if err != nil || size > 4096 {
			t.Errorf("%s has %d members, %v, want at most 4096", k, size, err)
		}
		ttl, err := c.Do(t.Context(), c.B().Pttl().Key(k).Build()).AsInt64()
		if err != nil || ttl <= 0 {
			t.Errorf("%s never expires: %d, %v", k, ttl, err)
		}
		if s, ok := soonest[kind]; !ok || ttl < s {
			soonest[kind] = ttl
		}
		latest[kind] = max(latest[kind], ttl)
	}
	for _, kind := range []string{"events", "slide", "late"} {
		if d := latest[kind] - soonest[kind]; d < 6_000 {
			t.Errorf("the keys of %s expire within %d ms, want them apart", kind, d)
		}
	}
	st, err := w.Stats(t.Context())
	if err != nil || st.Late != int64(len(late)) {
		t.Errorf("got %d late events, %v, want %d", st.Late, err, len(late))
	}
	// Paged in the order in which they came, and dealt with page by page.
	seen := map[string]bool{}
	for cursor := ""; ; {
		page, next, err := w.Late(t.Context(), cursor, 700)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range page {
			if seen[l.Data] || !l.Start.Equal(noon) || !l.End.Equal(noon.Add(time.Hour)) || l.Reason != window.ReasonWatermark || l.Key != "k" {
				t.Fatalf("got %+v, want each late event once, with its window", l)
			}
			seen[l.Data] = true
		}
		if err := w.DiscardLate(t.Context(), page...); err != nil {
			t.Fatal(err)
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	if st, err = w.Stats(t.Context()); err != nil || st.Late != 0 || len(seen) != len(late) {
		t.Errorf("read %d late events and %d are left, %v, want %d and 0", len(seen), st.Late, err, len(late))
	}
}

// Reads are exact while others add at the same millisecond, in a small set and in a large one.
func TestRangeWhileAdding(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, n := range []int{1500, 5000} {
			w := newStore(t, c, window.Config{Keep: 366 * 24 * time.Hour})
			old := many(n, 0)
			for i := range old {
				old[i].Data = "m" + old[i].Data
			}
			add(t, w, "k", old...)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() {
				var err error
				for i := 99_999; ctx.Err() == nil && err == nil; i-- { // each goes before all others
					_, err = w.Add(t.Context(), "k", at(0, fmt.Sprintf("a%05d", i)), at(0, fmt.Sprintf("n%05d", i)))
				}
				done <- err
			}()
			from, to := noon.Add(-time.Second), noon.Add(time.Second)
			exact := func(what string, got []window.Event) {
				t.Helper()
				seen, found := map[string]bool{}, 0
				for i, e := range got {
					if seen[e.Data] || i > 0 && e.Data < got[i-1].Data {
						t.Fatalf("%s: %q is there twice, or out of order", what, e.Data)
					}
					seen[e.Data] = true
					if e.Data[0] == 'm' {
						found++
					}
				}
				if found != n {
					t.Fatalf("%s: got %d of %d events that were there all the time", what, found, n)
				}
			}
			for range 5 {
				got, err := w.Range(t.Context(), "k", from, to)
				if err != nil {
					t.Fatal(err)
				}
				exact("range", got)
				got = nil
				for cursor := ""; ; {
					page, next, err := w.RangePage(t.Context(), "k", from, to, cursor, 300)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, page...)
					if cursor = next; cursor == "" {
						break
					}
				}
				exact("pages", got)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// The entry of a cursor may leave. The next page continues after its place.
func TestCursorOfAnEntryThatLeft(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		w := newStore(t, c, window.Config{Size: time.Minute, Lateness: -1})
		add(t, w, "k", at(time.Hour, "end"))
		add(t, w, "k", at(0, "\x00"), at(0, "a"), at(0, "b\xff"), at(0, "b"), at(0, "é"), at(0, "z"))
		var got []string
		for cursor := ""; ; {
			page, next, err := w.Late(t.Context(), cursor, 1)
			if err != nil || len(page) != 1 {
				t.Fatalf("got %d events, %v, want 1", len(page), err)
			}
			got = append(got, page[0].Data)
			if err := w.DiscardLate(t.Context(), page...); err != nil {
				t.Fatal(err)
			}
			if cursor = next; cursor == "" {
				break
			}
		}
		want(t, "late", got, []string{"\x00", "a", "b", "b\xff", "z", "é"})
	})
}

// Events are bounded in bytes, and so is each command: a server with a small query buffer takes a
// large Add.
func TestManyBytes(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t, "--client-query-buffer-limit", "2mb")
	w := newStore(t, own.Client(t), window.Config{Size: time.Minute, Lateness: -1})
	var events []window.Event
	for i := range 200 {
		events = append(events, at(0, fmt.Sprintf("%03d", i)+strings.Repeat("x", window.MaxData-3)))
	}
	want(t, "added", add(t, w, "k", events...), window.AddResult{New: 200})
	add(t, w, "k", at(time.Minute, "end"))
	closed := closeDue(t, w, 1)
	want(t, "read", len(closed[0].Events), 200)
	if _, err := w.Add(t.Context(), "k", at(0, strings.Repeat("x", window.MaxData+1))); err == nil || !strings.Contains(err.Error(), "event 0 has 65537 bytes of data, must be 0 to 65536") {
		t.Errorf("got %v, want a refusal", err)
	}
}

// Thousands of windows due at once are leased by scripts of bounded length.
func TestManyWindows(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		w := newStore(t, c, window.Config{Size: time.Second, Lateness: -1, Idle: time.Millisecond})
		n := 0
		for k := range 50 {
			var ev []window.Event
			for i := range 30 {
				ev = append(ev, at(time.Duration(i)*time.Second, fmt.Sprint("e", i)))
				n++
			}
			add(t, w, fmt.Sprint("k", k), ev...)
		}
		for left := n; left > 0; {
			closed := closeDue(t, w, window.MaxClose)
			left -= len(closed)
			for _, x := range closed {
				if err := w.Done(t.Context(), x); err != nil {
					t.Fatal(err)
				}
			}
		}
		st := balanced(t, w)
		want(t, "events", st.Events, window.EventCounts{Added: int64(n), Done: int64(n)})
	})
}
