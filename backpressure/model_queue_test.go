package backpressure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
)

// modelProducer is a producer as the model has it: in the queue, with room, or neither.
type modelProducer struct {
	r       *Reservation
	n, high int64
	expires time.Time // its place or its room, by the clock that never goes back
}

// queueModel is a gate with its queue.
type queueModel struct {
	k            *redisxtest.Clock
	c            rueidis.Client
	name         string
	steady, last time.Time // the clock that never goes back, and the server's at the last call
	depth        int64
	closed       bool
	queue, held  []*modelProducer
	gates        []*Gate // programs of different configurations
}

const (
	modelTTL  = time.Minute
	modelPoll = 10 * time.Second
)

// now returns the clock that never goes back.
func (m *queueModel) now() time.Time {
	if m.k.Now.After(m.last) {
		return m.steady.Add(m.k.Now.Sub(m.last))
	}
	return m.steady
}

func (m *queueModel) called() { m.steady, m.last = m.now(), m.k.Now }

func (m *queueModel) reserved(at time.Time) (n int64) {
	for _, p := range m.held {
		if at.Before(p.expires) {
			n += p.n
		}
	}
	return n
}

// serve is what each call does: what has expired goes, the gate opens, and the first in the queue
// are served.
func (m *queueModel) serve(g *Gate) {
	m.called()
	dead := func(p *modelProducer) bool { return !m.steady.Before(p.expires) }
	m.held, m.queue = slices.DeleteFunc(m.held, dead), slices.DeleteFunc(m.queue, dead)
	if m.closed && m.depth+m.reserved(m.steady) <= g.cfg.Low {
		m.closed = false
	}
	for len(m.queue) > 0 && !m.closed {
		p := m.queue[0]
		if m.closed = m.depth+m.reserved(m.steady)+p.n > p.high; !m.closed {
			p.expires = m.steady.Add(g.grantTTL())
			m.queue, m.held = m.queue[1:], append(m.held, p)
		}
	}
}

// ask is a request of a producer, its first one or a later one.
func (m *queueModel) ask(g *Gate, p *modelProducer, wait time.Duration) (granted bool) {
	m.serve(g)
	waits := slices.Contains(m.queue, p)
	if !waits && !slices.Contains(m.held, p) {
		if !m.closed && len(m.queue) == 0 {
			m.closed = m.depth+m.reserved(m.steady)+p.n > g.cfg.High
			if !m.closed {
				m.held = append(m.held, p)
			}
		}
		if waits = !slices.Contains(m.held, p) && wait > 0; waits {
			m.queue = append(m.queue, p)
		}
	}
	if waits {
		p.expires = m.steady.Add(wait)
	}
	if granted = slices.Contains(m.held, p); granted {
		p.expires = m.steady.Add(modelTTL)
	}
	return granted
}

// members returns the ids of a sorted set, by score.
func (m *queueModel) members(rt *rapid.T, key string) []string {
	all, err := m.c.Do(context.Background(), m.c.B().Zrange().Key(key).Min("0").Max("-1").Build()).AsStrSlice()
	if err != nil {
		rt.Fatal(err)
	}
	return all
}

func (m *queueModel) check(rt *rapid.T) {
	g := m.gates[0]
	names := func(all []*modelProducer) []string {
		out := []string{}
		for _, p := range all {
			out = append(out, p.r.member)
		}
		return out
	}
	if got, want := m.members(rt, g.keys[3]), names(m.queue); !slices.Equal(got, want) {
		rt.Fatalf("queue: got %q, want %q", got, want)
	}
	got, want := m.members(rt, g.keys[2]), names(m.held)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		rt.Fatalf("held: got %q, want %q", got, want)
	}
	st, err := g.Stats(context.Background())
	if err != nil || st.ReservedRecords != m.reserved(m.now()) || st.Waiting != int64(len(m.queue)) || st.Closed != m.closed || st.Records != m.depth {
		rt.Fatalf("got %+v, %v, want depth %d, %d reserved, %d waiting, closed %v", st, err, m.depth, m.reserved(m.now()), len(m.queue), m.closed)
	}
	if a, err := g.Audit(context.Background()); err != nil || a.Balanced() != nil {
		rt.Fatalf("audit: %v, %v", err, a.Balanced())
	}
}

// The queue of a gate against a model of it: programs with different marks ask, poll, die, leave,
// push and release, the consumer takes records away, the server's clock runs, is set back and
// forward. Producers poll when the model lets them.
func TestQueueModel(t *testing.T) {
	t.Parallel()
	k, c := redisxtest.NewClock(t, time.UnixMilli(1_700_000_000_000))
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		m := &queueModel{k: k, c: c, name: fmt.Sprint("g", round), steady: k.Now, last: k.Now}
		list := "{" + m.name + "}:ready"
		for _, marks := range [][2]int64{{20, 10}, {12, 4}, {20, 5}} {
			g, err := New(t.Context(), c, m.name, Config{
				Records: []Source{{List: list}}, High: marks[0], Low: marks[1], ReservationTTL: modelTTL, PollInterval: modelPoll,
			})
			if err != nil {
				rt.Fatal(err)
			}
			m.gates = append(m.gates, g)
		}
		var waiters, holders []*modelProducer // that live
		gate := func(rt *rapid.T) *Gate { return m.gates[rapid.IntRange(0, len(m.gates)-1).Draw(rt, "gate")] }
		pick := func(rt *rapid.T, from *[]*modelProducer) *modelProducer {
			if len(*from) == 0 {
				rt.Skip("there is none")
			}
			i := rapid.IntRange(0, len(*from)-1).Draw(rt, "which")
			p := (*from)[i]
			*from = slices.Delete(*from, i, i+1)
			return p
		}
		const place = 2*modelPoll + time.Second
		ask := func(rt *rapid.T, p *modelProducer, wait time.Duration) {
			want := m.ask(p.r.gate, p, wait)
			res, err := p.r.gate.ask(t.Context(), p.r, wait)
			if err != nil || res.granted != want {
				rt.Fatalf("ask for %d: got %v, %v, want granted %v", p.n, res.granted, err, want)
			}
			switch {
			case want:
				holders = append(holders, p)
			case wait > 0:
				waiters = append(waiters, p)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"ask": func(rt *rapid.T) {
				g := gate(rt)
				n := rapid.Int64Range(1, g.cfg.High-g.cfg.Low).Draw(rt, "n")
				r, err := g.reservation(int(n), 0)
				if err != nil {
					rt.Fatal(err)
				}
				ask(rt, &modelProducer{r: r, n: n, high: g.cfg.High}, rapid.SampledFrom([]time.Duration{0, place, place, place}).Draw(rt, "wait"))
			},
			"poll": func(rt *rapid.T) { ask(rt, pick(rt, &waiters), place) },
			"die": func(rt *rapid.T) {
				if rapid.Bool().Draw(rt, "waits") {
					pick(rt, &waiters)
				} else {
					pick(rt, &holders)
				}
			},
			"leave": func(rt *rapid.T) {
				p := pick(rt, &waiters)
				m.called()
				mine := func(q *modelProducer) bool { return q == p }
				m.queue, m.held = slices.DeleteFunc(m.queue, mine), slices.DeleteFunc(m.held, func(q *modelProducer) bool { return q == p && m.steady.Before(q.expires) })
				m.serve(p.r.gate)
				p.r.gate.leave(t.Context(), p.r)
			},
			"push and release": func(rt *rapid.T) {
				p := pick(rt, &holders)
				m.called()
				alive := slices.Contains(m.held, p) && m.steady.Before(p.expires)
				if alive && rapid.Bool().Draw(rt, "pushed") {
					for range p.n {
						if _, err := k.Lpush(list, "x"); err != nil {
							rt.Fatal(err)
						}
					}
					m.depth += p.n
				}
				if alive {
					m.held = slices.DeleteFunc(m.held, func(q *modelProducer) bool { return q == p })
				}
				m.serve(p.r.gate)
				if err := p.r.Release(t.Context()); alive != (err == nil) || !alive && !errors.Is(err, ErrExpired) {
					rt.Fatalf("release: got %v, want it alive %v", err, alive)
				}
			},
			"consume": func(rt *rapid.T) {
				n := min(m.depth, rapid.Int64Range(1, 20).Draw(rt, "n"))
				for range n {
					if _, err := k.RPop(list); err != nil {
						rt.Fatal(err)
					}
				}
				m.depth -= n
				g := gate(rt)
				m.serve(g)
				if err := g.Notify(t.Context()); err != nil {
					rt.Fatal(err)
				}
			},
			"time":  func(rt *rapid.T) { k.Set(time.Duration(rapid.IntRange(1, 15_000).Draw(rt, "ms")) * time.Millisecond) },
			"clock": func(rt *rapid.T) { k.Set(time.Duration(rapid.IntRange(-7200, 7200).Draw(rt, "seconds")) * time.Second) },
			"":      m.check,
		})
	})
}
