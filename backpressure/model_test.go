package backpressure_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/headrace/headrace/backpressure"
	"github.com/redis/rueidis"
	"pgregory.net/rapid"
)

// modelHeld is a reservation as the model has it.
type modelHeld struct {
	r       *backpressure.Reservation
	n       int64
	low     int64     // of the program that has it
	expires time.Time // by the clock that never goes back
}

// A gate against a model of it: programs of different configuration ask, push, release and die, the
// consumer takes records away, the server's clock runs, is set back and forward.
func TestModel(t *testing.T) {
	t.Parallel()
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{m.Addr()}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		name := fmt.Sprint("g", round)
		list := "{" + name + "}:ready"
		wall := time.UnixMilli(1_700_000_000_000) // the server's clock
		steady := wall                            // what passes
		last := wall                              // the server's clock at the last call
		m.SetTime(wall)
		const ttl = time.Minute
		open := func(high, low int64) *backpressure.Gate {
			g, err := backpressure.New(t.Context(), c, name, backpressure.Config{Records: []backpressure.Source{{List: list}}, High: high, Low: low, ReservationTTL: ttl})
			if err != nil {
				rt.Fatal(err)
			}
			return g
		}
		// called: durations are measured by what a call sees of the clock.
		called := func() {
			if wall.After(last) {
				steady = steady.Add(wall.Sub(last))
			}
			last = wall
		}
		high, low := int64(20), int64(10)
		g := open(high, low)
		var held []modelHeld
		depth, closed := int64(0), false
		reserved := func() (n int64) {
			for _, h := range held {
				n += h.n
			}
			return n
		}
		// settle is what every call does first: it expires reservations and opens the gate.
		settle := func(low int64) {
			called()
			kept := held[:0]
			for _, h := range held {
				if steady.Before(h.expires) {
					kept = append(kept, h)
				}
			}
			held = kept
			if closed && depth+reserved() <= low {
				closed = false
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"try": func(rt *rapid.T) {
				n := rapid.Int64Range(1, high-low).Draw(rt, "n")
				settle(low)
				wanted := !closed && depth+reserved()+n <= high
				if !wanted {
					closed = true
				}
				r, err := g.TryAcquire(t.Context(), int(n))
				if (err == nil) != wanted || err != nil && !errors.Is(err, backpressure.ErrFull) {
					rt.Fatalf("try %d: got %v, want granted %v at depth %d, reserved %d", n, err, wanted, depth, reserved())
				}
				if wanted {
					held = append(held, modelHeld{r: r, n: n, low: low, expires: steady.Add(ttl)})
				}
			},
			"push and release": func(rt *rapid.T) {
				if len(held) == 0 {
					rt.Skip("nothing is reserved")
				}
				i := rapid.IntRange(0, len(held)-1).Draw(rt, "which")
				h := held[i]
				called()
				alive := steady.Before(h.expires)
				if pushed := rapid.Bool().Draw(rt, "pushed"); pushed && alive {
					for range h.n {
						if _, err := m.Lpush(list, "x"); err != nil {
							rt.Fatal(err)
						}
					}
					depth += h.n
				}
				held = append(held[:i:i], held[i+1:]...)
				settle(h.low) // a program that runs already decides by its own marks
				err := h.r.Release(t.Context())
				if alive != (err == nil) || err != nil && !errors.Is(err, backpressure.ErrExpired) {
					rt.Fatalf("release: got %v, want it alive %v", err, alive)
				}
				if depth > high {
					rt.Fatalf("depth is %d, want at most %d", depth, high)
				}
			},
			"consume": func(rt *rapid.T) {
				n := min(depth, rapid.Int64Range(1, 8).Draw(rt, "n"))
				for range n {
					if _, err := m.RPop(list); err != nil {
						rt.Fatal(err)
					}
				}
				depth -= n
				settle(low)
				if err := g.Notify(t.Context()); err != nil {
					rt.Fatal(err)
				}
			},
			"time": func(rt *rapid.T) {
				wall = wall.Add(time.Duration(rapid.Int64Range(1, 90_000).Draw(rt, "ms")) * time.Millisecond)
				m.SetTime(wall)
			},
			"clock": func(rt *rapid.T) {
				wall = wall.Add(time.Duration(rapid.Int64Range(-7200, 7200).Draw(rt, "seconds")) * time.Second)
				m.SetTime(wall)
			},
			"restart": func(rt *rapid.T) { // with another configuration; reservations of the old one still count
				low = rapid.Int64Range(5, 12).Draw(rt, "low")
				g = open(high, low)
			},
			"": func(rt *rapid.T) {
				a, err := g.Audit(t.Context())
				if err != nil || a.Balanced() != nil {
					rt.Fatalf("audit: %v, %v", err, a.Balanced())
				}
				st, err := g.Stats(t.Context())
				if err != nil || st.Records != depth {
					rt.Fatalf("got %+v, %v, want depth %d", st, err, depth)
				}
				if st.Records+st.ReservedRecords > high {
					rt.Fatalf("got %d records and %d reserved, want at most %d", st.Records, st.ReservedRecords, high)
				}
			},
		})
	})
}
