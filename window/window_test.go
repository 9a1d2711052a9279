package window_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
	"github.com/redis/rueidis"
)

func TestMain(m *testing.M) {
	servertest.RapidChecks(100)
	servertest.Main(m)
}

// noon is long ago: only events that are ahead of the clock are refused.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func at(offset time.Duration, data string) window.Event {
	return window.Event{At: noon.Add(offset), Data: data}
}

func newStore(t testing.TB, c rueidis.Client, cfg window.Config) *window.Store {
	t.Helper()
	return named(t, c, servertest.Prefix(t), cfg)
}

func named(t testing.TB, c rueidis.Client, name string, cfg window.Config) *window.Store {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(&logs{level: slog.LevelError, got: func(line string) { t.Errorf("logged: %s", line) }})
	}
	w, err := window.New(t.Context(), c, name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func add(t testing.TB, w *window.Store, key string, events ...window.Event) window.AddResult {
	t.Helper()
	a, err := w.Add(t.Context(), key, events...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func closeDue(t testing.TB, w *window.Store, n int) []window.ClosedWindow {
	t.Helper()
	c, err := w.CloseDue(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// logs is a slog.Handler that hands lines to a function.
type logs struct {
	level slog.Level
	got   func(line string)
}

func (l *logs) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level }
func (l *logs) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *logs) WithGroup(string) slog.Handler                    { return l }
func (l *logs) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += fmt.Sprintf(" %s=%v", a.Key, a.Value); return true })
	l.got(line)
	return nil
}

// collect returns a logger and the lines that it got.
func collect() (*slog.Logger, func() []string) { return collectFrom(slog.LevelWarn) }

func collectFrom(level slog.Level) (*slog.Logger, func() []string) {
	var mu sync.Mutex
	var lines []string
	l := &logs{level: level, got: func(line string) { mu.Lock(); defer mu.Unlock(); lines = append(lines, line) }}
	return slog.New(l), func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(lines) }
}

// windowName is how a window is called in the keys.
func windowName(offset, size time.Duration, key string) string {
	return fmt.Sprintf("%d %d %s", noon.Add(offset).UnixMilli(), size.Milliseconds(), key)
}

// show is a closed window in one line.
func show(closed ...window.ClosedWindow) []string {
	out := []string{}
	for _, c := range closed {
		s := fmt.Sprintf("%s %s-%s %s %d:", c.Key, c.Start.Format("15:04:05"), c.End.Format("15:04:05"), c.Reason, c.Attempt)
		for _, e := range c.Events {
			s += " " + e.Data
		}
		out = append(out, s)
	}
	return out
}

func lates(t testing.TB, w *window.Store) []string {
	t.Helper()
	l, _, err := w.Late(t.Context(), "", 100)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, e := range l {
		out = append(out, fmt.Sprintf("%s %s %s %s", e.Key, e.At.Format("15:04:05"), e.Data, e.Reason))
	}
	return out
}

func want(t testing.TB, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestTumbling(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		w := newStore(t, c, window.Config{Size: time.Minute, Lateness: 10 * time.Second})
		const s = time.Second
		want(t, "first", add(t, w, "a b", at(59*s, "y"), at(1*s, "x"), at(61*s, "z"), at(1*s, "x")), window.AddResult{New: 3, Repeated: 1})
		want(t, "not due", show(closeDue(t, w, 10)...), []string{})
		want(t, "10 s late is in time", add(t, w, "a b", at(69*s, "v"), at(59*s, "w")), window.AddResult{New: 2})
		// One call does not make its own events late, but closes what it has passed.
		want(t, "passes", add(t, w, "a b", at(2*s, "u"), at(70*s, "t")), window.AddResult{New: 2})
		want(t, "late", add(t, w, "a b", at(3*s, "late 1"), at(59*s, "w"), at(71*s, "r")), window.AddResult{New: 1, Repeated: 1, Late: 1})
		want(t, "another key has its own watermark", add(t, w, "b", at(3*s, "x")), window.AddResult{New: 1})

		closed := closeDue(t, w, 10)
		want(t, "closed", show(closed...), []string{"a b 12:00:00-12:01:00 watermark 1: x u w y"})
		want(t, "it is leased", show(closeDue(t, w, 10)...), []string{})
		want(t, "late while a closer has it", add(t, w, "a b", at(4*s, "late 2")), window.AddResult{Late: 1})
		if err := w.Done(t.Context(), closed[0]); err != nil {
			t.Error(err)
		}
		if err := w.Done(t.Context(), closed[0]); !errors.Is(err, window.ErrLeaseLost) || !strings.Contains(err.Error(), `done "a b" at 2026-01-02T12:00:00Z`) {
			t.Error(err)
		}
		want(t, "late when it is done", add(t, w, "a b", at(4*s, "late 2"), at(5*s, "late 3")), window.AddResult{Late: 2})
		want(t, "late events", lates(t, w), []string{"a b 12:00:03 late 1 watermark", "a b 12:00:04 late 2 watermark", "a b 12:00:05 late 3 watermark"})
		late, _, _ := w.Late(t.Context(), "", 2)
		if err := w.DiscardLate(t.Context(), late...); err != nil {
			t.Error(err)
		}
		want(t, "rest", lates(t, w), []string{"a b 12:00:05 late 3 watermark"})
		state, err := w.Stats(t.Context())
		if err != nil {
			t.Error(err)
		}
		want(t, "state", state, window.Stats{Keys: 2, Windows: 3, Late: 1, Events: window.EventCounts{Added: 9, Open: 5, Done: 4}})
	})
}

func TestAhead(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		w := newStore(t, c, window.Config{Size: time.Minute, Keep: time.Hour})
		now := time.Now()
		want(t, "added", add(t, w, "k", window.Event{At: now, Data: "now"}, window.Event{At: now.Add(time.Hour), Data: "wrong clock"}), window.AddResult{New: 1, Late: 1})
		want(t, "it closed nothing", add(t, w, "k", window.Event{At: now, Data: "now too"}), window.AddResult{New: 1})
		if l := lates(t, w); len(l) != 1 || !strings.HasSuffix(l[0], "wrong clock ahead") {
			t.Error(l)
		}
	})
}

func TestIdle(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		patient := named(t, c, name, window.Config{Size: time.Minute, Idle: time.Hour})
		w := named(t, c, name, window.Config{Size: time.Minute, Idle: time.Millisecond})
		add(t, w, "k", at(0, "x"), at(30*time.Second, "y"), at(61*time.Second, "z"))
		want(t, "not idle yet", show(closeDue(t, patient, 10)...), []string{})
		var closed []window.ClosedWindow
		for len(closed) == 0 { // a millisecond
			closed = closeDue(t, w, 10)
		}
		want(t, "closed", show(closed...), []string{"k 12:00:00-12:01:00 idle 1: x y", "k 12:01:00-12:02:00 idle 1: z"})
		want(t, "late", add(t, w, "k", at(62*time.Second, "q"), at(120*time.Second, "r")), window.AddResult{New: 1, Late: 1})
		want(t, "late events", lates(t, w), []string{"k 12:01:02 q idle"})
	})
}

// A closer that dies is redelivered, with the same events, and comes too late with its Done.
func TestCloserDies(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		cfg := window.Config{Size: time.Minute, Lateness: -1}
		long := named(t, c, name, cfg)
		cfg.LeaseDuration = time.Millisecond
		short := named(t, c, name, cfg)
		add(t, long, "k", at(0, "x"), at(60*time.Second, "y"))
		dead := closeDue(t, short, 1)
		var closed []window.ClosedWindow
		for len(closed) == 0 {
			closed = closeDue(t, long, 1)
		}
		want(t, "the dead one's", show(dead...), []string{"k 12:00:00-12:01:00 watermark 1: x"})
		want(t, "redelivered", show(closed...), []string{"k 12:00:00-12:01:00 watermark 2: x"})
		for what, err := range map[string]error{
			"done": long.Done(t.Context(), dead[0]), "extend": long.Extend(t.Context(), dead[0], time.Hour), "release": long.Release(t.Context(), dead[0], window.ReleaseOptions{}),
		} {
			if !errors.Is(err, window.ErrLeaseLost) {
				t.Errorf("%s by the dead one: %v", what, err)
			}
		}
		if err := long.Release(t.Context(), closed[0], window.ReleaseOptions{Delay: time.Hour}); err != nil {
			t.Error(err)
		}
		want(t, "released for later", show(closeDue(t, long, 1)...), []string{})
		if err := long.Release(t.Context(), closed[0], window.ReleaseOptions{}); !errors.Is(err, window.ErrLeaseLost) {
			t.Errorf("released twice: got %v, want %v", err, window.ErrLeaseLost)
		}
		// The delay, without the wait for it.
		if err := c.Do(t.Context(), c.B().Zadd().Key("{"+name+"}:window:due").ScoreMember().ScoreMember(1, windowName(0, time.Minute, "k")).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		closed = closeDue(t, long, 1)
		want(t, "released", show(closed...), []string{"k 12:00:00-12:01:00 watermark 3: x"})
		if err := long.Extend(t.Context(), closed[0], time.Hour); err != nil {
			t.Error(err)
		}
		if err := long.Done(t.Context(), closed[0]); err != nil {
			t.Error(err)
		}
	})
}

// Producers and closers at once, a third of the closers die with what they hold: each event ends in
// one window that is done, or among the late ones, and no window is done twice.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		const producers, adds, keys = 6, 40, 5
		w := newStore(t, c, window.Config{Size: 10 * time.Second, Lateness: 5 * time.Second, Idle: 300 * time.Millisecond, LeaseDuration: 50 * time.Millisecond, Backoff: time.Millisecond, MaxBackoff: time.Millisecond, MaxFailures: 1000})
		var mu sync.Mutex
		var added window.AddResult
		found := map[string]int{}
		windows := map[string]bool{}
		var wg, closers sync.WaitGroup
		for p := range producers {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(1, uint64(p)))
				for i := range adds {
					var events []window.Event
					for j := range 1 + rnd.IntN(20) {
						offset := time.Duration(i)*time.Second + time.Duration(rnd.IntN(12_000))*time.Millisecond
						events = append(events, at(offset, fmt.Sprintf("%d/%d/%d", p, i, j)))
					}
					key := fmt.Sprint("key ", rnd.IntN(keys))
					a, err := w.Add(t.Context(), key, events...)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					added.New, added.Repeated, added.Late = added.New+a.New, added.Repeated+a.Repeated, added.Late+a.Late
					mu.Unlock()
				}
			})
		}
		finished := make(chan bool)
		for p := range 3 {
			closers.Go(func() {
				rnd := rand.New(rand.NewPCG(2, uint64(p)))
				for {
					closed, err := w.CloseDue(t.Context(), 3)
					if err != nil {
						t.Error(err)
						return
					}
					for _, c := range closed {
						if rnd.IntN(3) == 0 {
							continue // dies
						}
						// Between this and the end of the lock Done succeeds for no other closer.
						mu.Lock()
						err := w.Done(t.Context(), c)
						if err == nil {
							id := fmt.Sprint(c.Key, c.Start)
							if windows[id] {
								t.Errorf("%s is done twice", id)
							}
							windows[id] = true
							for _, e := range c.Events {
								found[e.Data]++
							}
						} else if !errors.Is(err, window.ErrLeaseLost) {
							t.Error(err)
						}
						mu.Unlock()
					}
					if len(closed) > 0 {
						continue
					}
					select {
					case <-finished:
						return
					default:
					}
				}
			})
		}
		wg.Wait()
		for {
			s, err := w.Stats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if s.Keys == 0 && s.Due == 0 && s.Leased == 0 {
				break
			}
		}
		close(finished)
		closers.Wait()
		late := 0
		for {
			l, _, err := w.Late(t.Context(), "", window.MaxPage)
			if err != nil {
				t.Fatal(err)
			}
			if len(l) == 0 {
				break
			}
			late += len(l)
			for _, e := range l {
				found[e.Data]++
			}
			if err := w.DiscardLate(t.Context(), l...); err != nil {
				t.Fatal(err)
			}
		}
		for data, n := range found {
			if n != 1 {
				t.Errorf("%s was found %d times", data, n)
			}
		}
		if added.Repeated != 0 || added.Late != late || added.New+added.Late != len(found) || len(windows) < 10 {
			t.Errorf("added %+v, but found %d, %d of them late, in %d windows", added, len(found), late, len(windows))
		}
		t.Logf("%d events in %d windows, %d late", added.New, len(windows), late)
	})
}

func TestSliding(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		w := newStore(t, c, window.Config{Keep: time.Hour})
		now := time.Now().Truncate(time.Millisecond)
		var events, all []window.Event
		for i := range 2500 { // many share a millisecond, across the pages too
			events = append(events, window.Event{At: now.Add(-time.Duration(i/700) * 10 * time.Minute).UTC(), Data: fmt.Sprintf("%04d", i)})
		}
		want(t, "added", add(t, w, "k", events...), window.AddResult{New: 2500})
		want(t, "again", add(t, w, "k", events[:100]...), window.AddResult{Repeated: 100})
		want(t, "too old", add(t, w, "k", window.Event{At: now.Add(-61 * time.Minute), Data: "old"}), window.AddResult{Late: 1})
		all = slices.Clone(events)
		slices.SortFunc(all, func(a, b window.Event) int {
			if d := a.At.Compare(b.At); d != 0 {
				return d
			}
			return strings.Compare(a.Data, b.Data)
		})
		for _, q := range []struct {
			d time.Duration
			n int64
		}{{time.Hour, 2500}, {25 * time.Minute, 2100}, {5 * time.Minute, 700}} {
			n, err := w.LastCount(t.Context(), "k", q.d)
			if err != nil || n != q.n {
				t.Errorf("count of the last %v: %d, %v", q.d, n, err)
			}
			got, err := w.Last(t.Context(), "k", q.d)
			if err != nil {
				t.Error(err)
			}
			want(t, "last "+q.d.String(), got, all[2500-q.n:])
		}
		from, to := now.Add(-20*time.Minute), now.Add(-10*time.Minute) // from is in, to is not
		n, err := w.Count(t.Context(), "k", from, to)
		if err != nil || n != 700 {
			t.Errorf("count: %d, %v", n, err)
		}
		got, err := w.Range(t.Context(), "k", from, to)
		if err != nil || len(got) != 700 || got[0].Data != "1400" || got[699].Data != "2099" {
			t.Errorf("range: %d, %v", len(got), err)
		}
		if got, err := w.Last(t.Context(), "nobody", time.Hour); err != nil || len(got) != 0 {
			t.Errorf("a key without events: %v, %v", got, err)
		}
	})
}

// What has slid out of the window leaves the server with the next events, and the rest when the
// stream stops.
func TestSlidingForgets(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		wide, narrow := named(t, c, name, window.Config{Keep: time.Hour}), named(t, c, name, window.Config{Keep: time.Minute})
		var events []window.Event
		for i := range 1500 {
			events = append(events, window.Event{At: time.Now().Add(-30 * time.Minute), Data: fmt.Sprint(i)})
		}
		add(t, wide, "k", events...)
		add(t, narrow, "k", window.Event{At: time.Now(), Data: "new"})
		if n, err := wide.LastCount(t.Context(), "k", time.Hour); err != nil || n != 1 {
			t.Errorf("%d left, %v", n, err)
		}
	})
}

func TestEverythingExpires(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		w := named(t, c, name, window.Config{Size: time.Minute, Keep: 24 * time.Hour, Lateness: -1, MaxFailures: 1})
		add(t, w, "k", at(0, "x"), at(60*time.Second, "y"), at(120*time.Second, "z"), at(180*time.Second, "z"), at(240*time.Second, "z"))
		add(t, w, "k", at(0, "late"))
		add(t, w, "j", window.Event{At: time.Now(), Data: "slides too"})
		closed := closeDue(t, w, 3)
		for _, err := range []error{w.Done(t.Context(), closed[0]), w.Release(t.Context(), closed[1], window.ReleaseOptions{Failure: "x"})} {
			if err != nil {
				t.Error(err)
			}
		}
		keys, err := c.Do(t.Context(), c.B().Keys().Pattern("{"+name+"}:*").Build()).AsStrSlice()
		if err != nil || len(keys) != 6+2*6+5+1 {
			t.Errorf("%d keys, want 24: %q, %v", len(keys), keys, err)
		}
		for _, k := range keys {
			if !strings.HasPrefix(k, "{"+name+"}:window:") {
				t.Errorf("got key %q, want the prefix {%s}:window:", k, name)
			}
			if ttl, err := c.Do(t.Context(), c.B().Pttl().Key(k).Build()).AsInt64(); err != nil || ttl <= 0 {
				t.Errorf("%s never expires: %d, %v", k, ttl, err)
			}
		}
	})
}

// Even when the key has forgotten its watermark, a window that is with a closer does not change.
func TestClosedStaysClosed(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	w := named(t, c, name, window.Config{Size: time.Minute, Lateness: -1})
	add(t, w, "k", at(0, "x"), at(60*time.Second, "y"))
	c.Do(t.Context(), c.B().Del().Key("{"+name+"}:window:marks:k").Build())
	want(t, "due", add(t, w, "k", at(time.Second, "too late")), window.AddResult{Late: 1})
	closed := closeDue(t, w, 1)
	want(t, "with a closer", add(t, w, "k", at(2*time.Second, "too late too")), window.AddResult{Late: 1})
	want(t, "closed", show(closed...), []string{"k 12:00:00-12:01:00 watermark 1: x"})
	want(t, "late", lates(t, w), []string{"k 12:00:01 too late closed", "k 12:00:02 too late too closed"})
}

// At maxmemory a producer is refused, and closing, which frees memory, goes on.
func TestMaxmemory(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t, "--maxmemory-policy", "noeviction")
	c := own.Client(t)
	w := named(t, c, "w", window.Config{Size: time.Minute, Lateness: -1})
	add(t, w, "k", at(0, "x"), at(60*time.Second, "y"))
	if err := c.Do(t.Context(), c.B().Arbitrary("CONFIG", "SET", "maxmemory", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Add(t.Context(), "k", at(61*time.Second, "z")); err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("add: %v", err)
	}
	closed := closeDue(t, w, 1)
	want(t, "closed", show(closed...), []string{"k 12:00:00-12:01:00 watermark 1: x"})
	for _, err := range []error{w.Extend(t.Context(), closed[0], time.Minute), w.Done(t.Context(), closed[0])} {
		if err != nil {
			t.Error(err)
		}
	}
	w = named(t, c, "w", window.Config{Size: time.Minute, Lateness: -1, Idle: time.Millisecond})
	for closed = nil; len(closed) == 0; {
		closed = closeDue(t, w, 1)
	}
	want(t, "idle", show(closed...), []string{"k 12:01:00-12:02:00 idle 1: y"})
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]window.Config{
		"Config.Size and Config.Keep are 0: must set at least one":   {},
		"Config.Size is -1s, must be 0s to 8784h0m0s":                {Size: -time.Second},
		"Config.Size is 1.5ms, must be whole milliseconds":           {Size: 1500 * time.Microsecond},
		"Config.Keep is 10000h0m0s, must be 0s to 8784h0m0s":         {Keep: 10000 * time.Hour},
		"Config.LeaseDuration is -1s, must be 1ms to":                {Size: time.Second, LeaseDuration: -time.Second},
		"Config.Retention is 1m0s, must be at least Size + Lateness": {Size: time.Minute, Retention: time.Minute},
	} {
		if _, err := window.New(t.Context(), nil, "w", cfg); !errors.Is(err, window.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := window.New(t.Context(), nil, "{w}", window.Config{Size: time.Minute}); !errors.Is(err, window.ErrConfig) || !strings.Contains(err.Error(), `name is "{w}", must have no brace`) {
		t.Error(err)
	}
	c := servertest.Miniredis(t)
	sliding, tumbling := named(t, c, "s", window.Config{Keep: time.Minute}), named(t, c, "t", window.Config{Size: time.Minute})
	_, addKey := sliding.Add(t.Context(), "", at(0, "x"))
	_, addTime := sliding.Add(t.Context(), "k", window.Event{})
	_, addFarTime := sliding.Add(t.Context(), "k", window.Event{At: farFuture})
	_, noTumbling := sliding.CloseDue(t.Context(), 1)
	_, closeN := tumbling.CloseDue(t.Context(), 1001)
	_, noSliding := tumbling.Last(t.Context(), "k", time.Second)
	_, lastD := sliding.Last(t.Context(), "k", time.Hour)
	_, _, lateN := sliding.Late(t.Context(), "", 0)
	_, _, lateCursor := sliding.Late(t.Context(), "x", 1)
	for _, c := range []struct {
		err  error
		want string
	}{
		{addKey, "key has 0 bytes, must be 1 to 512"},
		{addTime, "event 0 is at 0001-01-01"},
		{addFarTime, "must be 1970 to 6429"},
		{noTumbling, window.ErrNoTumbling.Error()},
		{sliding.Run(t.Context(), func(context.Context, window.ClosedWindow) error { return nil }), window.ErrNoTumbling.Error()},
		{closeN, "n is 1001, must be 1 to 1000"},
		{noSliding, window.ErrNoSliding.Error()},
		{lastD, "last 1h0m0s, must be 1ms to Config.Keep, 1m0s"},
		{lateN, "n is 0, must be 1 to 1000"},
		{tumbling.Extend(t.Context(), window.ClosedWindow{}, 0), "extend by 0s, must be 1ms to Config.Retention"},
		{lateCursor, `invalid cursor "x"`},
		{tumbling.Release(t.Context(), window.ClosedWindow{}, window.ReleaseOptions{Delay: -1}), "release after -1ns, must be 0 to"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("got %v, want %q", c.err, c.want)
		}
	}
}

// farFuture is a time whose Unix time in milliseconds overflows to 1970.
var farFuture = time.Unix(1<<62, 0)

// A range without end has all events, not none.
func TestTimesThatRedisCannotCount(t *testing.T) {
	t.Parallel()
	w := newStore(t, servertest.Miniredis(t), window.Config{Keep: 366 * 24 * time.Hour})
	add(t, w, "k", at(0, "x"))
	if got, err := w.Range(t.Context(), "k", time.Time{}, farFuture); err != nil || len(got) != 1 {
		t.Errorf("range from year 1 to the far future: got %v, %v, want one event", got, err)
	}
}

// Events are the caller's again when Add returns: it sorts a copy.
func TestAddLeavesTheCallersEvents(t *testing.T) {
	t.Parallel()
	w := newStore(t, servertest.Redis(t), window.Config{Size: time.Hour})
	events := make([]window.Event, 1200) // three scripts
	for i := range events {
		events[i] = at(time.Duration(i*7%len(events))*time.Second, fmt.Sprint(i))
	}
	before := slices.Clone(events)
	if a := add(t, w, "k", events...); a.New != len(events) {
		t.Fatalf("got %+v, want %d new events", a, len(events))
	}
	if d := cmp.Diff(before, events); d != "" {
		t.Errorf("Add has changed the events of its caller: %s", d)
	}
}
