package window_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
	"github.com/redis/rueidis"
)

// A changed size is carried out: windows of the old size close, each event is in one window, and a
// retry is known, whichever size held when it came first.
func TestSizeChanged(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, sizes := range [][]time.Duration{
			{time.Second, 5 * time.Second}, {5 * time.Second, time.Second}, {7 * time.Second, 3 * time.Second, 7 * time.Second}, {time.Second, time.Minute, time.Second, 10 * time.Second},
		} {
			name := servertest.Prefix(t)
			var all []window.Event
			var stores []*window.Store
			next := 0
			for _, size := range sizes {
				s := named(t, c, name, window.Config{Size: size, Lateness: 3 * time.Second, Idle: time.Hour})
				stores = append(stores, s)
				for range 20 {
					e := at(time.Duration(next)*700*time.Millisecond, fmt.Sprint("e", next))
					all = append(all, e)
					next++
					// The programs that run already follow the new size.
					want(t, "new "+e.Data, add(t, stores[next%len(stores)], "k", e), window.AddResult{New: 1})
				}
				want(t, "again", add(t, s, "k", all...), window.AddResult{Repeated: len(all)})
			}
			last := stores[len(stores)-1]
			add(t, last, "k", at(time.Hour, "end"))
			seen := map[string]int{}
			lengths := map[time.Duration]bool{}
			for _, x := range closeDue(t, last, 1000) {
				lengths[x.End.Sub(x.Start)] = true
				for _, e := range x.Events {
					seen[e.Data]++
					if e.At.Before(x.Start) || !e.At.Before(x.End) {
						t.Errorf("event of %v is in the window %v to %v", e.At, x.Start, x.End)
					}
				}
				if err := last.Done(t.Context(), x); err != nil {
					t.Error(err)
				}
			}
			for _, e := range all {
				if seen[e.Data] != 1 {
					t.Errorf("sizes %v: %s is in %d windows, want 1", sizes, e.Data, seen[e.Data])
				}
			}
			for _, size := range sizes[:2] {
				if !lengths[size] {
					t.Errorf("sizes %v: no window of %v", sizes, size)
				}
			}
			want(t, "again, after the close", add(t, last, "k", all...), window.AddResult{Repeated: len(all)})
			balanced(t, last)
		}
	})
}

func TestNoSizeWhileThereAreWindows(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	w := named(t, c, name, window.Config{Size: time.Minute, Lateness: -1, Keep: time.Hour, Idle: time.Millisecond})
	add(t, w, "k", at(0, "x"))
	_, err := window.New(t.Context(), c, name, window.Config{Keep: time.Hour})
	if !errors.Is(err, window.ErrConfig) || !strings.Contains(err.Error(), "Config.Size is 0, must be 1m0s until") {
		t.Errorf("got %v, want %v with both values", err, window.ErrConfig)
	}
	for st := (window.Stats{Keys: 1}); st.Keys+st.Due+st.Leased > 0; {
		for _, x := range closeDue(t, w, 10) {
			if err := w.Done(t.Context(), x); err != nil {
				t.Error(err)
			}
		}
		if st, err = w.Stats(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	named(t, c, name, window.Config{Keep: time.Hour})
}

// Programs of another layout version get an error that names both, at start and in every call.
func TestLayout(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		w := named(t, c, name, window.Config{Size: time.Minute, Lateness: -1, Keep: time.Hour})
		add(t, w, "k", at(0, "x"), at(time.Minute, "y"))
		x := closeDue(t, w, 1)[0]
		for _, version := range []string{"1", "77"} {
			if err := c.Do(t.Context(), c.B().Hset().Key("{"+name+"}:window:meta").FieldValue().FieldValue("layout", version).Build()).Error(); err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			for call, err := range map[string]error{
				"new":     func() error { _, err := window.New(ctx, c, name, window.Config{Size: time.Minute}); return err }(),
				"add":     func() error { _, err := w.Add(ctx, "k", at(0, "x")); return err }(),
				"close":   func() error { _, err := w.CloseDue(ctx, 1); return err }(),
				"done":    w.Done(ctx, x),
				"release": w.Release(ctx, x, window.ReleaseOptions{}),
				"stats":   func() error { _, err := w.Stats(ctx); return err }(),
				"last":    func() error { _, err := w.Last(ctx, "k", time.Hour); return err }(),
				"late":    func() error { _, _, err := w.Late(ctx, "", 1); return err }(),
				"dead":    func() error { _, _, err := w.DeadWindows(ctx, "", 1); return err }(),
			} {
				if !errors.Is(err, window.ErrLayout) || !strings.Contains(err.Error(), "layout "+version+", this program needs layout "+window.Layout) {
					t.Errorf("%s: got %v, want %v with both versions", call, err, window.ErrLayout)
				}
			}
		}
	})
}

// After a FLUSHALL the programs that run go on, and agree with those that start.
func TestFlushed(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	c := own.Client(t)
	cfg := window.Config{Size: time.Hour, Keep: time.Hour}
	a := named(t, c, "w", cfg)
	if err := c.Do(t.Context(), c.B().Flushall().Build()).Error(); err != nil {
		t.Fatal(err)
	}
	b := named(t, c, "w", cfg) // another seed
	events := many(5000, 0)
	want(t, "b", add(t, b, "k", events...), window.AddResult{New: 5000})
	want(t, "a", add(t, a, "k", events...), window.AddResult{Repeated: 5000})
	balanced(t, a)
}

// Each name has a seed of its own that cannot be guessed. Who knows it can choose data that all
// goes into one bucket of a large set.
func TestSeedsDiffer(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t).Client(t)
	seeds := map[string]bool{}
	for i := range 5 {
		name := fmt.Sprint("w", i)
		add(t, named(t, c, name, window.Config{Size: time.Hour}), "k", many(1, 0)...)
		seed, err := c.Do(t.Context(), c.B().Hget().Key("{"+name+"}:window:meta").Field("seed").Build()).ToString()
		if err != nil || len(seed) < 16 {
			t.Errorf("the seed of %s is %q, %v, want 16 bytes or more", name, seed, err)
		}
		seeds[seed] = true
	}
	if len(seeds) != 5 {
		t.Errorf("%d different seeds, want 5", len(seeds))
	}
}

func TestEviction(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t, "--maxmemory", "64mb", "--maxmemory-policy", "volatile-lru").Client(t)
	cfg := window.Config{Size: time.Minute, Eviction: window.EvictionRefuse}
	if _, err := window.New(t.Context(), c, "w", cfg); !errors.Is(err, window.ErrEviction) || !strings.Contains(err.Error(), "volatile-lru") {
		t.Errorf("got %v, want %v with the policy", err, window.ErrEviction)
	}
	for policy, lines := range map[window.Eviction]int{window.EvictionWarn: 1, window.EvictionIgnore: 0} {
		logger, got := collect()
		cfg.Eviction, cfg.Logger = policy, logger
		named(t, c, "w", cfg)
		if l := got(); len(l) != lines || lines == 1 && !strings.Contains(l[0], "maxmemory-policy=volatile-lru") {
			t.Errorf("eviction %d: got log %q, want %d lines", policy, l, lines)
		}
	}
}
