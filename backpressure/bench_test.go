package backpressure_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// BenchmarkFigures compares a reservation, made and released, with two bare commands: the round
// trips that a producer would need to look at a depth and to count itself.
func BenchmarkFigures(b *testing.B) {
	c := servertest.Redis(b)
	name := servertest.Prefix(b)
	list := "{" + name + "}:ready"
	gate, err := backpressure.New(b.Context(), c, name, backpressure.Config{Records: []backpressure.Source{{List: list}}})
	if err != nil {
		b.Fatal(err)
	}
	const n = 5000
	bench.Run(b, bench.Figure{
		Name:  "backpressure/acquire",
		Setup: func(int) { servertest.Rest(b, c) },
		Bare: func(int) int {
			for range n {
				if err := c.Do(b.Context(), c.B().Llen().Key(list).Build()).Error(); err != nil {
					b.Error(err)
				}
				if err := c.Do(b.Context(), c.B().Incr().Key("{"+name+"}:bare").Build()).Error(); err != nil {
					b.Error(err)
				}
			}
			return n
		},
		Ours: func(int) int {
			for range n {
				r, err := gate.Acquire(b.Context(), 100)
				if err == nil {
					err = r.Release(b.Context())
				}
				if err != nil {
					b.Error(err)
				}
			}
			return n
		},
	})
	// The longest that one command holds the server with 10,000 reservations that expire together.
	for range 10_000 {
		if _, err := gate.TryAcquire(b.Context(), 1); err != nil {
			b.Fatal(err)
		}
	}
	held := "{" + name + "}:gate:held"
	members, err := c.Do(b.Context(), c.B().Zrange().Key(held).Min("0").Max("-1").Build()).AsStrSlice()
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range members {
		if err := c.Do(b.Context(), c.B().Zadd().Key(held).ScoreMember().ScoreMember(1, m).Build()).Error(); err != nil {
			b.Fatal(err)
		}
	}
	longest := time.Duration(0)
	for range 10 {
		start := time.Now()
		if err := gate.Notify(b.Context()); err != nil {
			b.Fatal(err)
		}
		longest = max(longest, time.Since(start))
	}
	bench.Note(b, "backpressure/longest-stop: 10,000 reservations expire in %s", fmt.Sprintf("calls of at most %.1f ms", float64(longest.Microseconds())/1000))
}
