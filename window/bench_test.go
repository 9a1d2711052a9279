package window_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
	"github.com/redis/rueidis"
)

const benchEvents = 20_000

// BenchmarkFigures compares adding events in calls of 500 with a pipelined ZADD for each.
func BenchmarkFigures(b *testing.B) {
	c := servertest.Redis(b)
	name := servertest.Prefix(b)
	w, err := window.New(b.Context(), c, name, window.Config{Size: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	events := make([]window.Event, benchEvents)
	for i := range events {
		events[i] = at(time.Duration(i)*time.Millisecond, "an event of usual length "+strconv.Itoa(i))
	}
	bench.Run(b, bench.Figure{
		Name:  "window/add",
		Setup: func(int) { servertest.Rest(b, c) },
		Bare: func(round int) int {
			for i := 0; i < len(events); i += 500 {
				cmds := make(rueidis.Commands, 500)
				for j := range cmds {
					e := events[i+j]
					// Ten keys, as Add has ten windows.
					key := fmt.Sprintf("{%s}:bare:%d:%d", name, round, i/2000)
					cmds[j] = c.B().Zadd().Key(key).Nx().ScoreMember().ScoreMember(float64(e.At.UnixMilli()), e.Data).Build()
				}
				for _, r := range c.DoMulti(b.Context(), cmds...) {
					if err := r.Error(); err != nil {
						b.Error(err)
					}
				}
			}
			return len(events)
		},
		Ours: func(round int) int {
			for i := 0; i < len(events); i += 500 {
				r, err := w.Add(b.Context(), fmt.Sprint("key", round, " ", i/2000), events[i:i+500]...)
				if err != nil || r.New != 500 {
					b.Errorf("got %+v, %v, want 500 new", r, err)
				}
			}
			return len(events)
		},
	})
}

// BenchmarkLongestStop notes how long one command of each operation holds the server at most.
func BenchmarkLongestStop(b *testing.B) {
	c := redisxtest.NewStops(b, servertest.OwnRedis(b, "--auto-aof-rewrite-percentage", "0").Client(b))
	name := servertest.Prefix(b)
	w, err := window.New(b.Context(), c, name, window.Config{Size: time.Hour, Keep: 366 * 24 * time.Hour, Lateness: -1, Idle: time.Millisecond})
	if err != nil {
		b.Fatal(err)
	}
	slowest := func(what string, f func()) {
		c.Reset()
		f()
		bench.Note(b, "window/longest-stop: %s: %.1f ms (%s, %d commands)", what, float64(c.Longest.Microseconds())/1000, c.How(), c.Commands)
	}
	events := many(200_000, 0)
	slowest("add 200,000 events of one millisecond", func() { add(b, w, "k", events...) })
	slowest("range of 200,000 events", func() {
		if _, err := w.Range(b.Context(), "k", noon, noon.Add(time.Hour)); err != nil {
			b.Fatal(err)
		}
	})
	slowest("1,000 windows added", func() {
		for i := range 10 {
			var ev []window.Event
			for j := range 100 {
				ev = append(ev, at(time.Duration(j)*time.Hour, "x"))
			}
			add(b, w, fmt.Sprint("key ", i), ev...)
		}
	})
	var closed []window.ClosedWindow
	slowest("1,000 windows closed, one of them of 200,000 events", func() { closed = closeDue(b, w, window.MaxClose) })
	slowest("1,000 windows done", func() {
		for _, x := range closed {
			if err := w.Done(b.Context(), x); err != nil {
				b.Fatal(err)
			}
		}
	})
	slowest("20,000 late events", func() { add(b, w, "k", many(20_000, time.Hour-time.Second)...) })
	slowest("stats and audit", func() { balanced(b, w) })
}
