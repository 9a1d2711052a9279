package window_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
	"github.com/redis/rueidis"
)

func TestRun(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		logger, lines := collect()
		w := newStore(t, c, window.Config{
			Size: time.Minute, Lateness: -1, PollInterval: 5 * time.Millisecond, Backoff: time.Millisecond, Logger: logger,
		})
		add(t, w, "k", at(0, "x"), at(60*time.Second, "y"), at(120*time.Second, "z"), at(180*time.Second, "w"))
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		err := w.Run(ctx, func(hctx context.Context, c window.ClosedWindow) error {
			if c.Events[0].Data == "x" && c.Attempt == 1 {
				return errors.New("not today")
			}
			got = append(got, show(c)...)
			if len(got) == 3 {
				cancel() // shut down in the middle of the last one
			}
			return hctx.Err()
		})
		if err != nil {
			t.Error(err)
		}
		want(t, "handled", got, []string{"k 12:01:00-12:02:00 watermark 1: y", "k 12:02:00-12:03:00 watermark 1: z", "k 12:00:00-12:01:00 watermark 2: x"})
		if l := lines(); len(l) != 1 || !strings.Contains(l[0], "a handler failed") || !strings.Contains(l[0], "attempt=1 error=not today") {
			t.Errorf("got log %q, want one line about attempt 1", l)
		}
		st, err := w.Stats(t.Context())
		want(t, "all done", st, window.Stats{Keys: 1, Windows: 4, Events: window.EventCounts{Added: 4, Open: 1, Done: 3}})
		if err != nil {
			t.Error(err)
		}
		want(t, "nothing new", add(t, w, "k", at(0, "x")), window.AddResult{Repeated: 1})
	})
}

// An outage has a line at its beginning and one at its end, however often Run polls meanwhile.
func TestRunLogsAnOutageOnce(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		logger, lines := collectFrom(slog.LevelInfo)
		w := newStore(t, c, window.Config{Size: time.Minute, Lateness: -1, PollInterval: time.Millisecond, Logger: logger})
		add(t, w, "k", at(0, "x"), at(60*time.Second, "y"))
		due := "{" + w.Name() + "}:window:due"
		for _, cmd := range []rueidis.Completed{c.B().Rename().Key(due).Newkey(due + ":away").Build(), c.B().Set().Key(due).Value("x").Build()} {
			if err := c.Do(t.Context(), cmd).Error(); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx, func(context.Context, window.ClosedWindow) error { cancel(); return nil }) }()
		servertest.Eventually(t, "the first line", func() bool { return len(lines()) > 0 })
		for range 200 { // Run polls meanwhile
			if err := c.Do(t.Context(), c.B().Ping().Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Do(t.Context(), c.B().Rename().Key(due+":away").Newkey(due).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if l := lines(); len(l) != 2 || !strings.Contains(l[0], "closing windows fails and is retried") || !strings.Contains(l[1], "closing windows works again") {
			t.Errorf("got log %q, want the beginning of the outage and its end", l)
		}
	})
}

// The context of a handler ends with its lease, and moves with it.
func TestHandlerThatExtendsKeepsItsContext(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		logger, lines := collect()
		w := newStore(t, c, window.Config{Size: time.Minute, Lateness: -1, LeaseDuration: 50 * time.Millisecond, PollInterval: 5 * time.Millisecond, Logger: logger})
		add(t, w, "k", at(0, "x"), at(60*time.Second, "y"))
		ctx, cancel := context.WithCancel(t.Context())
		var extended, lost error
		err := w.Run(ctx, func(hctx context.Context, c window.ClosedWindow) error {
			if lost != nil {
				cancel()
				return nil
			}
			if err := w.Extend(hctx, c, time.Hour); err != nil {
				return err // a slow machine: the next attempt
			}
			past := time.NewTimer(200 * time.Millisecond) // four times the first lease
			defer past.Stop()
			select {
			case <-past.C:
			case <-hctx.Done():
				extended = context.Cause(hctx)
			}
			if err := w.Extend(hctx, c, time.Millisecond); err != nil {
				return err
			}
			<-hctx.Done()
			lost = context.Cause(hctx)
			return hctx.Err()
		})
		if err != nil || extended != nil || !errors.Is(lost, window.ErrLeaseLost) {
			t.Errorf("got %v, cause %v while extended and %v after the lease, want none, none and %v (log %q)", err, extended, lost, window.ErrLeaseLost, lines())
		}
	})
}

// A handler that panics fails its window as an error does, and the closer goes on.
func TestHandlerThatPanics(t *testing.T) {
	t.Parallel()
	logger, _ := collect()
	w := newStore(t, servertest.Redis(t), window.Config{Size: time.Second, Lateness: -1, MaxFailures: 2, Backoff: time.Millisecond, PollInterval: time.Millisecond, Logger: logger})
	for _, key := range []string{"bad", "good"} {
		add(t, w, key, at(0, "x"), at(time.Second, "y"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	calls := map[string]int{}
	if err := w.Run(ctx, func(_ context.Context, x window.ClosedWindow) error {
		if calls[x.Key]++; calls["bad"] == 2 && calls["good"] == 1 {
			cancel()
		}
		if x.Key == "bad" {
			panic("no such sensor")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	dead, _, err := w.DeadWindows(t.Context(), "", 10)
	if err != nil || len(dead) != 1 || dead[0].Key != "bad" || !strings.Contains(dead[0].Failure, "panicked: no such sensor") {
		t.Errorf("got %+v, %v, want the window bad with the text of its panic", dead, err)
	}
}

// Windows at which every closer fails hold back no others, wait longer each time, and end in the
// dead-letter list with the last failure.
func TestPoisonWindows(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		const poison, good = 40, 5
		logger, _ := collect()
		w := newStore(t, c, window.Config{Size: time.Second, Lateness: -1, MaxFailures: 3, Backoff: 20 * time.Millisecond, PollInterval: time.Millisecond, Logger: logger})
		for i := range poison {
			add(t, w, fmt.Sprint("poison", i), at(0, "x"), at(time.Second, "y"))
		}
		for _, x := range closeDue(t, w, 100) { // all of them were with a closer before
			if err := w.Release(t.Context(), x, window.ReleaseOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range good {
			add(t, w, fmt.Sprint("good", i), at(0, "x"), at(time.Second, "y"))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		calls, goodAfter, fails := 0, 0, map[string]int{}
		handled := 0
		err := w.Run(ctx, func(_ context.Context, x window.ClosedWindow) error {
			calls++
			if strings.HasPrefix(x.Key, "good") {
				if handled++; handled == good {
					goodAfter = calls
				}
				return nil
			}
			if fails[x.Key]++; len(fails) == poison && allAre(fails, 3) && handled == good {
				cancel()
			}
			return errors.New("poison " + strings.Repeat("é", 1000))
		})
		if err != nil || handled != good || goodAfter > poison+good+16 {
			t.Errorf("got %v, %d good windows handled after %d calls, want %d after at most one round of poison", err, handled, goodAfter, good)
		}
		var dead []window.DeadWindow
		for cursor := ""; ; {
			page, next, err := w.DeadWindows(t.Context(), cursor, 7)
			if err != nil {
				t.Fatal(err)
			}
			dead = append(dead, page...)
			if cursor = next; cursor == "" {
				break
			}
		}
		if len(dead) != poison {
			t.Fatalf("got %d dead windows, want %d", len(dead), poison)
		}
		d := dead[0]
		if d.Failures != 3 || d.Attempts != 4 || d.Reason != window.ReasonWatermark || d.Events != 1 || !strings.HasPrefix(d.Failure, "poison é") || len(d.Failure) > window.MaxReason {
			t.Errorf("got %+v, want 3 failures in 4 attempts and a failure of at most %d bytes", d, window.MaxReason)
		}
		if ev, err := w.ReadDead(t.Context(), d); err != nil || len(ev) != 1 || ev[0].Data != "x" {
			t.Errorf("got events %v, %v, want x", ev, err)
		}
		n, err1 := w.Requeue(t.Context(), dead[:3]...)
		m, err2 := w.Discard(t.Context(), dead[1:]...)
		if n != 3 || m != poison-3 || err1 != nil || err2 != nil {
			t.Errorf("requeued %d, %v, discarded %d, %v, want 3 and %d", n, err1, m, err2, poison-3)
		}
		if got := closeDue(t, w, 100); len(got) != 3 || got[0].Attempt != 5 {
			t.Errorf("got %v, want 3 windows again, with attempt 5", show(got...))
		}
		balanced(t, w)
	})
}

func allAre(m map[string]int, n int) bool {
	for _, x := range m {
		if x != n {
			return false
		}
	}
	return true
}

// balanced checks the books, by the counts and by a recount.
func balanced(t testing.TB, w *window.Store) window.Stats {
	t.Helper()
	st, err := w.Stats(t.Context())
	if err == nil {
		err = st.Balanced()
	}
	if err != nil {
		t.Error(err)
	}
	a, err := w.Audit(t.Context())
	if err != nil {
		t.Error(err)
	}
	want(t, "differences", a.Differences, []string(nil))
	return st
}
