package window_test

import (
	"context"
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

// lives returns the keys of a prefix with their times to live.
func lives(t *testing.T, c rueidis.Client, prefix string) map[string]time.Duration {
	t.Helper()
	keys, err := c.Do(t.Context(), c.B().Keys().Pattern(prefix+"*").Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]time.Duration{}
	for _, key := range keys {
		ms, err := c.Do(t.Context(), c.B().Pttl().Key(key).Build()).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimPrefix(key, prefix)] = time.Duration(ms) * time.Millisecond
	}
	return out
}

// Before each call all keys have little time left. Each call prolongs the life of what it uses, and
// leaves no key without a time to live.
func TestEachCallProlongsWhatItUses(t *testing.T) {
	t.Parallel()
	c, ctx := servertest.Redis(t), t.Context()
	name := servertest.Prefix(t)
	prefix := "{" + name + "}:window:"
	const little, retention = 10 * time.Minute, 24 * time.Hour
	logger, _ := collect()
	cfg := window.Config{
		Size: time.Second, Keep: time.Hour, Lateness: -1, Idle: time.Hour, Retention: retention, LeaseDuration: time.Hour, MaxFailures: 2, Logger: logger,
	}
	w := named(t, c, name, cfg)
	step := func(what string, call func(context.Context) error, prolonged ...string) {
		t.Helper()
		for key := range lives(t, c, prefix) {
			if err := c.Do(ctx, c.B().Pexpire().Key(prefix+key).Milliseconds(little.Milliseconds()).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
		if err := call(ctx); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		got := lives(t, c, prefix)
		for key, life := range got {
			if life <= 0 {
				t.Errorf("%s: key %s has no time to live", what, key)
			}
		}
		for _, key := range prolonged {
			life, atLeast := got[key], retention
			if strings.HasPrefix(key, "slide") {
				atLeast = time.Hour
			}
			if life < atLeast-time.Minute {
				t.Errorf("%s: key %s lives for %v, want %v or more", what, key, life, atLeast)
			}
		}
	}
	adds := func(key string, events ...window.Event) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := w.Add(ctx, key, events...)
			return err
		}
	}
	first, second := windowName(0, time.Second, "k"), windowName(time.Second, time.Second, "k")
	step("add", adds("k", at(0, "a")), "meta", "expiry", "idle", "marks:k", "open:k", "info:"+first, "events:"+first)
	step("add again", adds("k", at(1, "b")), "meta", "expiry", "idle", "marks:k", "open:k", "info:"+first, "events:"+first)
	now := time.Now() // of both, or the second one may close a window
	step("slide", adds("now", window.Event{At: now, Data: "a"}), "slide:now", "marks:now")
	step("slide again", adds("now", window.Event{At: now, Data: "b"}), "slide:now", "marks:now")
	step("close by an add", adds("k", at(time.Second, "c")), "info:"+first, "due", "events:"+second)
	step("late", adds("k", at(0, "late")), "late:", "marks:k")
	step("late again", adds("k", at(0, "late too")), "late:", "marks:k")
	var x window.ClosedWindow
	take := func(ctx context.Context) error {
		closed, err := w.CloseDue(ctx, 1)
		if err == nil && len(closed) == 1 {
			x = closed[0]
		}
		return err
	}
	step("lease", take, "leases", "expiry", "info:"+first, "events:"+first)
	step("extend", func(ctx context.Context) error { return w.Extend(ctx, x, time.Hour) }, "leases", "expiry", "info:"+first, "events:"+first)
	step("release", func(ctx context.Context) error { return w.Release(ctx, x, window.ReleaseOptions{}) }, "due", "info:"+first, "events:"+first)
	step("lease again", take, "leases", "info:"+first)
	step("release after a failure", func(ctx context.Context) error {
		if err := w.Release(ctx, x, window.ReleaseOptions{Failure: "x"}); err != nil {
			return err
		}
		_, err := w.CloseDue(ctx, 1) // not due yet
		return err
	}, "due", "info:"+first, "events:"+first)
	step("add to windows of another key", adds("buried", at(0, "a"), at(time.Second, "b")))
	step("lease one of them", take)
	cfg.MaxFailures = 1
	strict, buried := named(t, c, name, cfg), windowName(0, time.Second, "buried")
	cfg.MaxFailures = 2
	step("bury", func(ctx context.Context) error { return strict.Release(ctx, x, window.ReleaseOptions{Failure: "x"}) },
		"dead", "expiry", "info:"+buried, "events:"+buried)
	step("add to a large window", adds("large", many(2500, 900*time.Millisecond)...), "marks:large")
	step("add more to it", func(ctx context.Context) error {
		events := many(2500, 900*time.Millisecond)
		for i := range events {
			events[i].Data += "more"
		}
		return adds("large", events...)(ctx)
	}, "events.1:"+windowName(0, time.Second, "large"), "events.64:"+windowName(0, time.Second, "large"), "events:"+windowName(0, time.Second, "large"))
	// Once in a while an event prolongs all buckets of its window, also those that got nothing. The
	// window remembers when.
	large := windowName(0, time.Second, "large")
	hset(t, c, prefix+"info:"+large, "kept", "1")
	var every []string
	for b := range 64 {
		every = append(every, fmt.Sprintf("events.%d:%s", b+1, large))
	}
	step("add one to it", adds("large", at(0, "one")), every...)
	if kept, err := c.Do(ctx, c.B().Hget().Key(prefix+"info:"+large).Field("kept").Build()).AsInt64(); err != nil || kept == 1 {
		t.Errorf("the buckets were last prolonged at %d, %v, want a time of now", kept, err)
	}
	hset(t, c, prefix+"marks:large", "opensplit", "1")
	step("add a window in a bucket", adds("large", at(time.Second, "x")), "marks:large")
	// The marks state that there are buckets, so they outlive them.
	inBuckets, all := 0, lives(t, c, prefix)
	for key, life := range all {
		if strings.HasPrefix(key, "open.") {
			inBuckets++
			if marks := all["marks:large"]; life > marks {
				t.Errorf("key %s lives for %v, want at most the %v of the marks", key, life, marks)
			}
		}
	}
	if inBuckets == 0 {
		t.Error("no set of open windows is in buckets, want one")
	}

	// An idle key is closed.
	cfg.Idle = time.Millisecond
	w = named(t, c, name, cfg)
	step("close idle keys", func(ctx context.Context) error { _, err := w.CloseDue(ctx, 10); return err }, "marks:k", "marks:large", "info:"+second, "leases")
	// A set of open windows is put back.
	step("add one more window", adds("put back", at(0, "a")), "open:put back")
	if err := c.Do(ctx, c.B().Del().Key(prefix+"open:put back").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	step("repair", func(ctx context.Context) error { _, err := w.Repair(ctx); return err }, "open:put back")

	// All names move to buckets: at first each bucket is prolonged, and then those that are used.
	cfg.Idle = time.Hour
	w = named(t, c, name, cfg)
	hset(t, c, prefix+"meta", "namessplit", "1")
	step("add in buckets", adds("b0", at(0, "a")), "meta", "expiry")
	for i := range 9 { // names in more buckets than one call uses
		step("add in more buckets", adds(fmt.Sprint("more", i), at(0, "a")))
	}
	buckets := func() (keys []string) {
		for key := range lives(t, c, prefix) {
			if strings.HasPrefix(key, "expiry.") || strings.HasPrefix(key, "idle.") {
				keys = append(keys, key)
			}
		}
		return keys
	}
	before := buckets()
	if err := c.Do(ctx, c.B().Hdel().Key(prefix+"meta").Field("kept").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	step("the first call in a while", func(ctx context.Context) error { _, err := w.CloseDue(ctx, 1); return err }, before...)
	step("a bucket is used", adds("b0", at(1, "b")))
	used := map[string]int{}
	for key, life := range lives(t, c, prefix) {
		if set, _, ok := strings.Cut(key, "."); ok && life > retention && slices.Contains(before, key) {
			used[set]++
		}
	}
	want(t, "buckets that were prolonged", used, map[string]int{"expiry": 1, "idle": 1})
}

// The failure that a closer reports stays with a window that is delivered again.
func TestFailureIsKept(t *testing.T) {
	t.Parallel()
	w := named(t, servertest.Redis(t), servertest.Prefix(t), window.Config{Size: time.Second, Lateness: -1})
	add(t, w, "k", at(0, "a"), at(time.Second, "b"))
	closed := closeDue(t, w, 1)
	if err := w.Release(t.Context(), closed[0], window.ReleaseOptions{Failure: "the disk is full"}); err != nil {
		t.Fatal(err)
	}
	due, _, err := w.Windows(t.Context(), window.PhaseDue, "", 10)
	if err != nil || len(due) != 1 || due[0].Failure != "the disk is full" || due[0].Failures != 1 {
		t.Errorf("got %+v, %v, want a window that failed once, with the failure", due, err)
	}
}

// A dead window that is requeued has failed never, so its next failure does not bury it again.
func TestRequeuedWindowStartsAnew(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx := t.Context()
		logger, _ := collect()
		w := newStore(t, c, window.Config{Size: time.Second, Lateness: -1, MaxFailures: 2, Backoff: time.Millisecond, MaxBackoff: time.Millisecond, Logger: logger})
		add(t, w, "k", at(0, "a"), at(time.Second, "b"))
		fail := func(wantDead int64) {
			t.Helper()
			var closed []window.ClosedWindow
			servertest.Eventually(t, "the window is due", func() bool {
				var err error
				closed, err = w.CloseDue(ctx, 1)
				return err == nil && len(closed) == 1
			})
			if err := w.Release(ctx, closed[0], window.ReleaseOptions{Failure: "bad"}); err != nil {
				t.Fatal(err)
			}
			s, err := w.Stats(ctx)
			if err != nil || s.Dead != wantDead {
				t.Errorf("got %d dead windows, %v, want %d", s.Dead, err, wantDead)
			}
		}
		fail(0)
		fail(1)
		dead, _, err := w.DeadWindows(ctx, "", 1)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := w.Requeue(ctx, dead...); n != 1 || err != nil {
			t.Fatalf("requeued %d, %v, want 1", n, err)
		}
		fail(0)
	})
}

// A lease that is in no set any more is lost, whatever the record of the window states.
func TestLeaseWithoutItsEntryIsLost(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx := t.Context()
		name := servertest.Prefix(t)
		w := named(t, c, name, window.Config{Size: time.Second, Lateness: -1})
		add(t, w, "k", at(0, "a"), at(time.Second, "b"))
		closed := closeDue(t, w, 1)
		if err := c.Do(ctx, c.B().Del().Key("{"+name+"}:window:leases").Build()).Error(); err != nil {
			t.Fatal(err)
		}
		if err := w.Done(ctx, closed[0]); !errors.Is(err, window.ErrLeaseLost) {
			t.Errorf("got %v, want ErrLeaseLost", err)
		}
	})
}
