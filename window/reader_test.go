package window_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
	"github.com/redis/rueidis"
)

func hset(t *testing.T, c rueidis.Client, key, field, value string) {
	t.Helper()
	if err := c.Do(t.Context(), c.B().Hset().Key(key).FieldValue().FieldValue(field, value).Build()).Error(); err != nil {
		t.Fatal(err)
	}
}

// line is a window in one line.
func line(s window.Summary) string {
	return fmt.Sprintf("%s %s %s-%s %d events, %s attempt %d, %d failures %q",
		s.Phase, s.Key, s.Start.Format("15:04:05"), s.End.Format("15:04:05"), s.Events, s.Reason, s.Attempts, s.Failures, s.Failure)
}

func TestOpen(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx, name := t.Context(), servertest.Prefix(t)
		meta := "{" + name + "}:window:meta"
		open := func() *window.Reader {
			t.Helper()
			r, err := window.Open(ctx, c, name)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		if _, err := window.Open(ctx, c, "a}b"); !errors.Is(err, window.ErrConfig) {
			t.Errorf("invalid name: got %v, want ErrConfig", err)
		}
		if _, err := window.Open(ctx, c, name); !errors.Is(err, window.ErrMissing) || !strings.Contains(err.Error(), name) {
			t.Errorf("missing: got %v, want ErrMissing with the name", err)
		}
		if n, err := c.Do(ctx, c.B().Exists().Key(meta).Build()).AsInt64(); err != nil || n != 0 {
			t.Errorf("Open has created %s: %d, %v", meta, n, err)
		}

		newEditedNamed(t, c, name, 0)
		r := open()
		want(t, "name", r.Name(), name)
		want(t, "size", r.Size(), time.Minute)
		want(t, "keep", r.Keep(), time.Hour)
		var got []string
		for _, phase := range []window.Phase{window.PhaseOpen, window.PhaseDue, window.PhaseLeased, window.PhaseDead} {
			page, next, err := r.Windows(ctx, phase, "", 10)
			if err != nil || next != "" {
				t.Errorf("%s: got cursor %q, %v, want one page", phase, next, err)
			}
			for _, s := range page {
				got = append(got, line(s))
			}
		}
		slices.Sort(got)
		want(t, "windows", got, []string{
			`dead dead 12:00:00-12:01:00 2 events, watermark attempt 1, 1 failures "no"`,
			`due due 12:00:00-12:01:00 2 events, watermark attempt 0, 0 failures ""`,
			`leased leased 12:00:00-12:01:00 2 events, watermark attempt 1, 0 failures ""`,
			`open dead 12:01:00-12:02:00 1 events,  attempt 0, 0 failures ""`,
			`open due 12:01:00-12:02:00 1 events,  attempt 0, 0 failures ""`,
			`open leased 12:01:00-12:02:00 1 events,  attempt 0, 0 failures ""`,
			`open open 12:00:00-12:01:00 2 events,  attempt 0, 0 failures ""`,
		})
		late, _, err := r.Late(ctx, "", 10)
		if err != nil || len(late) != 1 || late[0].Key != "due" || !late[0].End.Equal(noon.Add(time.Minute)) {
			t.Errorf("got late events %+v, %v, want the one that missed the window of noon", late, err)
		}
		if _, _, err := r.Windows(ctx, "done", "", 10); !errors.Is(err, window.ErrArgument) {
			t.Errorf("an unknown phase: got %v, want ErrArgument", err)
		}

		// A program with another configuration starts: an open Reader goes on, a new one knows it.
		named(t, c, name, window.Config{Size: time.Hour})
		want(t, "size of a new Reader", open().Size(), time.Hour)
		want(t, "keep of a new Reader, which is another program's", open().Keep(), time.Hour)
		// The name is deleted and used anew, with another seed.
		if err := c.Do(ctx, c.B().Del().Key(meta).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Stats(ctx); err != nil {
			t.Errorf("without data: %v", err)
		}
		named(t, c, name, window.Config{Size: time.Minute})
		if _, err := open().LastCount(ctx, "k", time.Minute); !errors.Is(err, window.ErrNoSliding) {
			t.Errorf("without a sliding window: got %v, want ErrNoSliding", err)
		}
		if _, err := r.Stats(ctx); err != nil {
			t.Errorf("with another seed: %v", err)
		}
		for _, text := range append([]string{"-1", "99999999999999"}, noNumbers...) {
			hset(t, c, meta, "size", text)
			want(t, "size of "+text, open().Size(), time.Duration(0))
		}
		hset(t, c, meta, "layout", "9")
		if _, err := window.Open(ctx, c, name); !errors.Is(err, window.ErrLayout) || !strings.Contains(err.Error(), "layout 9, this program needs layout "+window.Layout) {
			t.Errorf("another layout: got %v, want ErrLayout with both versions", err)
		}
		if _, err := r.Stats(ctx); !errors.Is(err, window.ErrLayout) {
			t.Errorf("another layout while a Reader is open: got %v, want ErrLayout", err)
		}
	})
}

// allWindows reads all pages of a phase.
func allWindows(t *testing.T, w *window.Store, phase window.Phase, n int) (all []string, pages int) {
	t.Helper()
	for cursor := ""; ; {
		page, next, err := w.Windows(t.Context(), phase, cursor, n)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > n {
			t.Errorf("got a page of %d windows, want at most %d", len(page), n)
		}
		for _, s := range page {
			all = append(all, fmt.Sprint(s.Key, " ", s.Start.Format("15:04"), " ", s.Events))
		}
		if pages++; next == "" || pages > 1000 {
			return all, pages
		}
		cursor = next
	}
}

// Pages of any size show every window once, also where another program has written.
func TestWindowsInPages(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		w := newStore(t, c, window.Config{Size: time.Minute, Lateness: time.Hour, MaxFailures: 1})
		var open []string
		for i, key := range []string{"a", "b c", "12 34 5", "\xff\x00", "empty", "ü"} {
			for j := range i%3 + 1 {
				add(t, w, key, at(time.Duration(j)*time.Minute, "x"), at(time.Duration(j)*time.Minute, fmt.Sprint("y", i)))
				open = append(open, fmt.Sprint(key, " ", noon.Add(time.Duration(j)*time.Minute).Format("15:04"), " 2"))
			}
		}
		slices.Sort(open)
		for _, n := range []int{1, 2, 3, 5, 1000} {
			got, pages := allWindows(t, w, window.PhaseOpen, n)
			slices.Sort(got)
			want(t, fmt.Sprint("pages of ", n), got, open)
			if most := len(open)/n + 1; pages > most {
				t.Errorf("pages of %d: got %d pages, want at most %d", n, pages, most)
			}
		}
		key := func(s string) string { return "{" + w.Name() + "}:window:" + s }
		for _, cmd := range [][]string{
			{"ZADD", key("open:a"), "7", "garbage"}, {"ZADD", key("open:ü"), "inf", "0 garbage"},
			{"DEL", key("open:empty")}, {"SET", key("open:b c"), "x"},
			{"ZADD", key("idle"), "-inf", "unknown"}, {"ZADD", key("due"), "inf", "garbage", "1", "0 1 forged"},
		} {
			if err := c.Do(t.Context(), c.B().Arbitrary(cmd...).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
		var left []string
		for _, s := range open {
			if !strings.HasPrefix(s, "b c") && !strings.HasPrefix(s, "empty") {
				left = append(left, s)
			}
		}
		for _, n := range []int{1, 2, 1000} {
			got, _ := allWindows(t, w, window.PhaseOpen, n)
			slices.Sort(got)
			want(t, fmt.Sprint("edited, pages of ", n), got, left)
		}
		got, _ := allWindows(t, w, window.PhaseDue, 1)
		want(t, "due", got, []string(nil))
		for _, cursor := range []string{"x", "1 2", "1 2 3 ", "nan 1 0 ", "1 2 -1 a", "1 2 9 a"} {
			if _, _, err := w.Windows(t.Context(), window.PhaseOpen, cursor, 1); !errors.Is(err, window.ErrArgument) {
				t.Errorf("cursor %q: got %v, want ErrArgument", cursor, err)
			}
		}
	})
}
