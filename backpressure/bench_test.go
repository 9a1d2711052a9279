package backpressure_test

import (
	"testing"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
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
}

// BenchmarkLongestStop notes how long one command holds the server at most, with as many
// reservations as 10,000 producers make.
func BenchmarkLongestStop(b *testing.B) {
	c := redisxtest.NewStops(b, servertest.OwnRedis(b, "--auto-aof-rewrite-percentage", "0").Client(b))
	name := servertest.Prefix(b)
	list := "{" + name + "}:ready"
	gate, err := backpressure.New(b.Context(), c, name, backpressure.Config{Records: []backpressure.Source{{List: list}}})
	if err != nil {
		b.Fatal(err)
	}
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	longest := func(what string, f func()) {
		c.Reset()
		f()
		bench.Note(b, "backpressure/longest-stop: %s: %.1f ms (%s, %d commands)", what, float64(c.Longest.Microseconds())/1000, c.How(), c.Commands)
	}
	longest("10,000 reservations", func() {
		for range 10_000 {
			_, err := gate.TryAcquire(b.Context(), 1)
			must(err)
		}
	})
	longest("audit of 10,000 reservations", func() { _, err := gate.Audit(b.Context()); must(err) })
	longest("repair of 10,000 reservations", func() { _, err := gate.Repair(b.Context()); must(err) })
	held := "{" + name + "}:gate:held"
	members, err := c.Do(b.Context(), c.B().Zrange().Key(held).Min("0").Max("-1").Build()).AsStrSlice()
	must(err)
	for _, m := range members {
		must(c.Do(b.Context(), c.B().Zadd().Key(held).ScoreMember().ScoreMember(1, m).Build()).Error())
	}
	longest("stats while 10,000 have expired", func() { _, err := gate.Stats(b.Context()); must(err) })
	longest("10,000 reservations expire", func() {
		for range 12 {
			must(gate.Notify(b.Context()))
		}
	})
}
