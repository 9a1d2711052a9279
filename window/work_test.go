package window_test

import (
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
)

// No command holds the server for long, however many events and windows there are.
func TestNoCommandDoesTooMuch(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t)
	c := s.Client(t)
	w, err := window.New(t.Context(), c, servertest.Prefix(t), window.Config{
		Size: time.Hour, Keep: 366 * 24 * time.Hour, Lateness: -1, Idle: time.Millisecond, Remember: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, f func()) {
		t.Helper()
		redisxtest.CheckWork(t, s.URL, what, f)
	}
	check("15,000 events of one millisecond", func() { add(t, w, "k", many(15_000, 0)...) })
	large := many(40, 0)
	for i := range large {
		large[i].Data += strings.Repeat("x", window.MaxData-len(large[i].Data))
	}
	check("large events", func() { add(t, w, "large", large...) })
	var hours []window.Event
	for i := range 1000 {
		hours = append(hours, at(time.Duration(i)*time.Hour, "x"))
	}
	check("1,000 windows", func() { add(t, w, "hours", hours...) })
	check("a range", func() {
		if _, err := w.Range(t.Context(), "k", noon, noon.Add(time.Hour)); err != nil {
			t.Error(err)
		}
	})
	var closed []window.ClosedWindow
	check("a close of 1,000 windows", func() { closed = closeDue(t, w, window.MaxClose) })
	check("late events", func() { add(t, w, "k", many(5_000, time.Hour-time.Second)...) })
	check("1,000 windows done", func() {
		for _, x := range closed {
			if err := w.Done(t.Context(), x); err != nil {
				t.Error(err)
			}
		}
	})
	check("an audit", func() { balanced(t, w) })
}
