package window_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/headrace/headrace/window"
	"pgregory.net/rapid"
)

// modelWindow is a window as the model has it.
type modelWindow struct {
	key         string
	start, size time.Duration // since noon
	state       string
	events      map[string]time.Duration
	attempt     int64
	failures    int
	since       time.Time // when it became due, or when its lease ends, by the clock that never goes back
	expires     time.Time // by the same clock
}

func (w *modelWindow) name() string { return fmt.Sprint(w.key, " ", w.start, " ", w.size) }

// Windows against a model of them: producers add in any order and again, closers take, finish,
// fail, extend or die, size and lateness change, windows expire and are forgotten, the server's
// clock runs, is set back and forward.
func TestModel(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		const (
			lease, backoff, maxFailures = time.Minute, 10 * time.Second, 3
			idle                        = 5 * time.Minute
			day                         = 24 * time.Hour
		)
		retention := rapid.SampledFrom([]time.Duration{300 * day, 300 * day, 2 * time.Hour}).Draw(rt, "retention")
		remember := min(retention, rapid.SampledFrom([]time.Duration{300 * day, 3 * time.Minute, -1}).Draw(rt, "remember"))
		name := fmt.Sprint("w", round)
		logger, _ := collect()
		start := noon.Add(24 * time.Hour)
		k.Now = start
		k.SetTime(start)
		steady, last := start, start
		size, lateness := 4*time.Second, 3*time.Second
		open := func() *window.Store {
			s, err := window.New(t.Context(), c, name, window.Config{
				Size: size, Lateness: lateness, LeaseDuration: lease, Backoff: backoff, MaxBackoff: time.Hour, MaxFailures: maxFailures, Idle: idle,
				Retention: retention, Remember: remember, Logger: logger,
			})
			if err != nil {
				rt.Fatal(err)
			}
			return s
		}
		s := open()
		if rapid.IntRange(1, 8).Draw(rt, "names in buckets") == 8 {
			k.HSet("{"+name+"}:window:meta", "namessplit", "1")
			k.HSet("{"+name+"}:window:marks:a", "opensplit", "1")
			k.SetTTL("{"+name+"}:window:marks:a", 24*time.Hour) // as every key
		}
		windows := map[string]*modelWindow{}
		var past []*modelWindow // that expired, and then opened again
		type change struct{ until, size time.Duration }
		type keyState struct {
			newest  time.Duration
			any     bool
			mark    time.Duration // what the watermark has passed
			size    time.Duration
			changes []change
			floor   time.Duration
			active  time.Time
		}
		keys := map[string]*keyState{}
		for _, key := range []string{"a", "b"} {
			keys[key] = &keyState{floor: -1, mark: -1}
		}
		leased := map[string]window.ClosedWindow{}
		dead := map[string]window.ClosedWindow{} // of closers that died
		called := func() {
			if k.Now.After(last) {
				steady = steady.Add(k.Now.Sub(last))
			}
			last = k.Now
		}
		shift := func(w *modelWindow, state string, since time.Time) { w.state, w.since = state, since }
		rt.Repeat(map[string]func(*rapid.T){
			"add": func(rt *rapid.T) {
				called()
				key := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "key")
				ks := keys[key]
				n := rapid.IntRange(1, 6).Draw(rt, "n")
				base := ks.newest / time.Second
				var events []window.Event
				var wanted window.AddResult
				mark := ks.mark
				if ks.any {
					mark = max(mark, ks.newest-lateness)
				}
				offsets := make([]time.Duration, n)
				for i := range offsets {
					offsets[i] = time.Duration(rapid.IntRange(max(0, int(base)-8), int(base)+6).Draw(rt, "second")) * time.Second
				}
				slices.Sort(offsets)
				if ks.size != 0 && ks.size != size {
					if ks.any && (len(ks.changes) == 0 || ks.newest >= ks.changes[len(ks.changes)-1].until) {
						ks.changes = append(ks.changes, change{ks.newest - ks.newest%ks.size + ks.size, ks.size})
					}
				}
				ks.size = size
				newest := ks.newest
				entered := false
				for _, at0 := range offsets {
					data := fmt.Sprint(key, at0, rapid.IntRange(0, 2).Draw(rt, "data"))
					events = append(events, at(at0, data))
					in := size
					for _, ch := range ks.changes {
						if at0 < ch.until {
							in = ch.size
							break
						}
					}
					begin := at0 - at0%in
					id := (&modelWindow{key: key, start: begin, size: in}).name()
					w := windows[id]
					if w != nil && w.state == "expired" {
						past, w = append(past, w), nil
						delete(windows, id)
					}
					there := false
					if w != nil && w.state != "forgotten" {
						_, there = w.events[data]
					}
					tooLate := begin+in <= mark || begin+in <= ks.floor || w != nil && w.state != "open"
					switch {
					case !tooLate:
						if w == nil {
							w = &modelWindow{key: key, start: begin, size: in, state: "open", events: map[string]time.Duration{}}
							windows[id] = w
						}
						if there {
							wanted.Repeated++
						} else {
							w.events[data] = at0
							wanted.New++
						}
						entered = true
						newest = max(newest, at0)
						w.expires = steady.Add(retention)
					case there:
						wanted.Repeated++
					default:
						wanted.Late++
					}
				}
				got, err := s.Add(t.Context(), key, events...)
				if err != nil || got != wanted {
					rt.Fatalf("add to %s at %v: got %+v, %v, want %+v", key, offsets, got, err, wanted)
				}
				if entered {
					ks.any, ks.newest, ks.active = true, newest, steady
				}
				if ks.any {
					ks.mark = max(mark, newest-lateness)
					for _, w := range windows {
						if w.key == key && w.state == "open" && w.start+w.size <= ks.mark {
							shift(w, "due", steady)
						}
					}
				}
			},
			"close": func(rt *rapid.T) {
				called()
				for _, w := range windows {
					switch {
					case steady.Before(w.expires) || w.state == "forgotten" || w.state == "expired":
					case w.state == "done":
						w.state = "forgotten"
					default:
						w.state = "expired"
					}
				}
				for key, ks := range keys { // all windows are over by the server's clock, unless it was set back by a day
					if ks.any && !ks.active.IsZero() && !steady.Before(ks.active.Add(idle)) {
						for _, w := range windows {
							if w.key == key && w.state == "open" && !k.Now.Before(noon.Add(w.start+w.size)) {
								shift(w, "due", steady)
								ks.floor = max(ks.floor, w.start+w.size)
							}
						}
					}
				}
				for _, w := range windows {
					if w.state == "leased" && !steady.Before(w.since) {
						w.failures++
						switch {
						case w.failures >= maxFailures:
							shift(w, "dead", steady)
							w.expires = steady.Add(retention)
						case w.failures == 1:
							shift(w, "due", steady)
						default:
							shift(w, "due", steady.Add(backoff<<(w.failures-2)))
						}
					}
				}
				wanted := map[string]int64{}
				for id, w := range windows {
					if w.state == "due" && !steady.Before(w.since) {
						w.attempt++
						shift(w, "leased", steady.Add(lease))
						w.expires = steady.Add(retention)
						wanted[id] = w.attempt
					}
				}
				closed, err := s.CloseDue(t.Context(), 1000)
				if err != nil {
					rt.Fatal(err)
				}
				got := map[string]int64{}
				for _, x := range closed {
					id := (&modelWindow{key: x.Key, start: x.Start.Sub(noon), size: x.End.Sub(x.Start)}).name()
					got[id] = x.Attempt
					if old, ok := leased[id]; ok {
						dead[id] = old
					}
					leased[id] = x
					w := windows[id]
					if w == nil {
						rt.Fatalf("got window %s, which there is not", id)
					}
					have := map[string]time.Duration{}
					for _, e := range x.Events {
						have[e.Data] = e.At.Sub(noon)
					}
					if !maps.Equal(have, w.events) {
						rt.Fatalf("window %s: got %v, want %v", id, have, w.events)
					}
				}
				if !maps.Equal(got, wanted) {
					rt.Fatalf("closed: got %v, want %v", got, wanted)
				}
			},
			"settle": func(rt *rapid.T) {
				if len(leased) == 0 {
					rt.Skip("nothing is leased")
				}
				ids := slices.Sorted(maps.Keys(leased))
				id := rapid.SampledFrom(ids).Draw(rt, "window")
				x, w := leased[id], windows[id]
				if old, ok := dead[id]; ok && rapid.Bool().Draw(rt, "by the dead one") {
					if err := s.Done(t.Context(), old); err == nil {
						rt.Fatalf("a closer that had lost %s ended it", id)
					}
					return
				}
				mine := w.state == "leased" && w.attempt == x.Attempt
				if mine { // other calls write nothing, the clock included
					called()
				}
				var err error
				switch op := rapid.SampledFrom([]string{"done", "fail", "release", "extend"}).Draw(rt, "op"); op {
				case "done":
					if err = s.Done(t.Context(), x); mine {
						shift(w, "done", steady)
						if w.expires = steady.Add(remember); remember < 0 {
							w.state = "forgotten"
						}
						delete(leased, id)
					}
				case "extend":
					d := time.Duration(rapid.IntRange(1, 600).Draw(rt, "for")) * time.Second
					if err = s.Extend(t.Context(), x, d); mine {
						shift(w, "leased", steady.Add(d))
						w.expires = steady.Add(retention + d)
					}
				case "release":
					d := time.Duration(rapid.IntRange(0, 60).Draw(rt, "delay")) * time.Second
					if err = s.Release(t.Context(), x, window.ReleaseOptions{Delay: d}); mine {
						shift(w, "due", steady.Add(d))
						w.expires = steady.Add(retention + d)
						delete(leased, id)
					}
				case "fail":
					if err = s.Release(t.Context(), x, window.ReleaseOptions{Failure: "x"}); mine {
						w.failures++
						w.expires = steady.Add(retention)
						if w.failures >= maxFailures {
							shift(w, "dead", steady)
						} else {
							d := backoff << (w.failures - 1)
							shift(w, "due", steady.Add(d))
							w.expires = w.expires.Add(d)
						}
						delete(leased, id)
					}
				}
				if mine != (err == nil) {
					rt.Fatalf("settle %s, attempt %d: got %v, want it held %v", id, x.Attempt, err, mine)
				}
			},
			"requeue": func(rt *rapid.T) {
				page, _, err := s.DeadWindows(t.Context(), "", 1000)
				if err != nil {
					rt.Fatal(err)
				}
				if len(page) > 0 {
					called()
				}
				n := 0
				for _, w := range windows {
					if w.state == "dead" {
						n++
						w.failures = 0
						shift(w, "due", steady)
						w.expires = steady.Add(retention)
					}
				}
				if got, err := s.Requeue(t.Context(), page...); err != nil || got != n {
					rt.Fatalf("requeued %d, %v, want %d", got, err, n)
				}
			},
			"time": func(rt *rapid.T) {
				k.Set(time.Duration(rapid.IntRange(1, 120).Draw(rt, "seconds")) * time.Second)
			},
			"clock": func(rt *rapid.T) {
				k.Set(time.Duration(rapid.IntRange(-3600, 3600).Draw(rt, "seconds")) * time.Second)
			},
			"restart": func(rt *rapid.T) {
				called()
				size = time.Duration(rapid.SampledFrom([]int{2, 3, 4, 10}).Draw(rt, "size")) * time.Second
				lateness = time.Duration(rapid.SampledFrom([]int{1, 3, 8, 30}).Draw(rt, "lateness")) * time.Second
				s = open()
			},
			"": func(rt *rapid.T) {
				st, err := s.Stats(t.Context())
				if err != nil {
					rt.Fatal(err)
				}
				wanted := window.EventCounts{}
				for _, w := range slices.Concat(past, slices.Collect(maps.Values(windows))) {
					n := int64(len(w.events))
					wanted.Added += n
					switch w.state {
					case "expired":
						wanted.Expired += n
					case "open":
						wanted.Open += n
					case "due":
						wanted.Due += n
					case "leased":
						wanted.Leased += n
					case "dead":
						wanted.Dead += n
					case "done", "forgotten":
						wanted.Done += n
					}
				}
				if st.Events != wanted || st.Balanced() != nil {
					rt.Fatalf("got %+v, want %+v", st.Events, wanted)
				}
			},
		})
		a, err := s.Audit(t.Context())
		if err != nil || a.Balanced() != nil {
			rt.Fatalf("audit: %v, %q", err, a.Differences)
		}
		k.FlushAll()
	})
}
