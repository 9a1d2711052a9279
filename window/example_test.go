package window_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/window"
)

// clock returns an event of a time of 2 January 2026.
func clock(at, data string) window.Event {
	t, err := time.Parse(time.DateTime, "2026-01-02 "+at)
	check(err)
	return window.Event{At: t, Data: data}
}

// Orders a minute: an order of 12:01:10 closes the window of 12:00. What comes for it then is late.
func Example() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()

	w, err := window.New(ctx, client, "orders", window.Config{Size: time.Minute, Lateness: 10 * time.Second})
	check(err)
	for _, e := range []window.Event{
		clock("12:00:05", "order 1"),
		clock("12:01:02", "order 3"),
		clock("12:00:59", "order 2"), // out of order, and in time
		clock("12:01:10", "order 4"),
		clock("12:00:30", "order 5"),
	} {
		_, err := w.Add(ctx, "Berlin", e)
		check(err)
	}

	closed, err := w.CloseDue(ctx, 10)
	check(err)
	for _, c := range closed {
		fmt.Println(c.Key, c.Start.Format("15:04"), len(c.Events), "orders, closed by", c.Reason)
		check(w.Done(ctx, c)) // after the result is safe
	}
	late, _, err := w.Late(ctx, "", 10)
	check(err)
	for _, e := range late {
		fmt.Println(e.Data, "missed the window of", e.Start.Format("15:04"), "by", e.Reason)
	}
	// Output:
	// Berlin 12:00 2 orders, closed by watermark
	// order 5 missed the window of 12:00 by watermark
}

// A retry of an Add, as after a lost reply, changes nothing.
func ExampleStore_Add() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	w, err := window.New(ctx, client, "orders", window.Config{Size: time.Minute})
	check(err)
	for range 2 {
		r, err := w.Add(ctx, "Berlin", clock("12:00:05", "order 1"), clock("12:00:06", "order 2"))
		check(err)
		fmt.Println(r.New, "new", r.Repeated, "repeated", r.Late, "late")
	}
	// Output:
	// 2 new 0 repeated 0 late
	// 0 new 2 repeated 0 late
}

// Run handles windows until its context ends.
func ExampleStore_Run() {
	client, stop := throwaway()
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	w, err := window.New(ctx, client, "orders", window.Config{Size: time.Minute, Lateness: -1})
	check(err)
	_, err = w.Add(ctx, "Berlin", clock("12:00:05", "order 1"), clock("12:01:00", "order 2"))
	check(err)

	check(w.Run(ctx, func(_ context.Context, c window.ClosedWindow) error {
		fmt.Println(c.Start.Format("15:04"), len(c.Events), "order, attempt", c.Attempt)
		cancel()
		return nil // now the window is done
	}))
	// Output:
	// 12:00 1 order, attempt 1
}

// A closer that needs longer than its lease extends it.
func ExampleStore_Extend() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	w, err := window.New(ctx, client, "orders", window.Config{Size: time.Minute, Lateness: -1})
	check(err)
	_, err = w.Add(ctx, "Berlin", clock("12:00:05", "order 1"), clock("12:01:00", "order 2"))
	check(err)
	closed, err := w.CloseDue(ctx, 1)
	check(err)
	check(w.Extend(ctx, closed[0], time.Hour))
	fmt.Println(w.Done(ctx, closed[0]))
	fmt.Println(errors.Is(w.Extend(ctx, closed[0], time.Hour), window.ErrLeaseLost))
	// Output:
	// <nil>
	// true
}

// Windows at which closers fail end in the dead-letter list, from where they can be tried again.
func ExampleStore_DeadWindows() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	w, err := window.New(ctx, client, "orders", window.Config{Size: time.Minute, Lateness: -1, MaxFailures: 1})
	check(err)
	_, err = w.Add(ctx, "Berlin", clock("12:00:05", "order 1"), clock("12:01:00", "order 2"))
	check(err)
	closed, err := w.CloseDue(ctx, 1)
	check(err)
	check(w.Release(ctx, closed[0], window.ReleaseOptions{Failure: "no such warehouse"}))

	dead, _, err := w.DeadWindows(ctx, "", 10)
	check(err)
	for _, d := range dead {
		events, err := w.ReadDead(ctx, d)
		check(err)
		fmt.Println(d.Key, d.Start.Format("15:04"), d.Failure, events[0].Data)
	}
	n, err := w.Requeue(ctx, dead...)
	fmt.Println(n, "requeued", err)
	// Output:
	// Berlin 12:00 no such warehouse order 1
	// 1 requeued <nil>
}

// Discard deletes dead windows.
func ExampleStore_Discard() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	w, err := window.New(ctx, client, "orders", window.Config{Size: time.Minute, Lateness: -1, MaxFailures: 1})
	check(err)
	_, err = w.Add(ctx, "Berlin", clock("12:00:05", "order 1"), clock("12:01:00", "order 2"))
	check(err)
	closed, err := w.CloseDue(ctx, 1)
	check(err)
	check(w.Release(ctx, closed[0], window.ReleaseOptions{Failure: "no such warehouse"}))
	dead, _, err := w.DeadWindows(ctx, "", 10)
	check(err)
	n, err := w.Discard(ctx, dead...)
	check(err)
	st, err := w.Stats(ctx)
	check(err)
	fmt.Println(n, "window and", st.Events.Discarded, "event discarded;", st.Balanced())
	// Output:
	// 1 window and 1 event discarded; <nil>
}

// Open windows can be read while they take events.
func ExampleStore_OpenWindows() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	w, err := window.New(ctx, client, "orders", window.Config{Size: time.Minute, Lateness: time.Hour})
	check(err)
	_, err = w.Add(ctx, "Berlin", clock("12:00:05", "order 1"), clock("12:01:00", "order 2"), clock("12:01:01", "order 3"))
	check(err)
	open, err := w.OpenWindows(ctx, "Berlin", time.Time{}, 100)
	check(err)
	for _, o := range open {
		events, err := w.ReadOpen(ctx, o)
		check(err)
		fmt.Println(o.Start.Format("15:04"), o.Events, events[0].Data)
	}
	// Output:
	// 12:00 1 order 1
	// 12:01 2 order 2
}

// Late events are read page by page, and deleted when they have been dealt with.
func ExampleStore_Late() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	w, err := window.New(ctx, client, "orders", window.Config{Size: time.Minute, Lateness: -1})
	check(err)
	_, err = w.Add(ctx, "Berlin", clock("12:01:00", "order 9"))
	check(err)
	_, err = w.Add(ctx, "Berlin", clock("12:00:01", "order 1"), clock("12:00:02", "order 2"), clock("12:00:03", "order 3"))
	check(err)
	for cursor := ""; ; {
		page, next, err := w.Late(ctx, cursor, 2)
		check(err)
		for _, e := range page {
			fmt.Println(e.Data, e.Reason, e.Start.Format("15:04"))
		}
		check(w.DiscardLate(ctx, page...))
		if cursor = next; cursor == "" {
			break
		}
	}
	// Output:
	// order 1 watermark 12:00
	// order 2 watermark 12:00
	// order 3 watermark 12:00
}

// At most three logins in ten minutes.
func ExampleStore_LastCount() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	logins, err := window.New(ctx, client, "logins", window.Config{Keep: 10 * time.Minute})
	check(err)
	for attempt := range 5 {
		n, err := logins.LastCount(ctx, "ada", 10*time.Minute)
		check(err)
		if n >= 3 {
			fmt.Println("attempt", attempt, "refused")
			continue
		}
		_, err = logins.Add(ctx, "ada", window.Event{At: time.Now(), Data: fmt.Sprint(attempt)})
		check(err)
	}
	// Output:
	// attempt 3 refused
	// attempt 4 refused
}

// Last reads what LastCount counts.
func ExampleStore_Last() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	logins, err := window.New(ctx, client, "logins", window.Config{Keep: time.Hour})
	check(err)
	_, err = logins.Add(ctx, "ada", window.Event{At: time.Now().Add(-time.Minute), Data: "phone"}, window.Event{At: time.Now(), Data: "desk"})
	check(err)
	events, err := logins.Last(ctx, "ada", time.Hour)
	check(err)
	for _, e := range events {
		fmt.Println(e.Data)
	}
	// Output:
	// phone
	// desk
}

// A span of the sliding window, counted and read.
func ExampleStore_Range() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	logins, err := window.New(ctx, client, "logins", window.Config{Keep: time.Hour})
	check(err)
	now := time.Now()
	for i := range 5 {
		_, err := logins.Add(ctx, "ada", window.Event{At: now.Add(time.Duration(i-5) * time.Minute), Data: fmt.Sprint(5-i, " minutes ago")})
		check(err)
	}
	from, to := now.Add(-4*time.Minute), now.Add(-2*time.Minute) // from is in, to is not
	n, err := logins.Count(ctx, "ada", from, to)
	check(err)
	events, err := logins.Range(ctx, "ada", from, to)
	check(err)
	fmt.Println(n, events[0].Data, events[1].Data)
	// Output:
	// 2 4 minutes ago 3 minutes ago
}

// Page by page, for spans that are larger than memory.
func ExampleStore_RangePage() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	logins, err := window.New(ctx, client, "logins", window.Config{Keep: time.Hour})
	check(err)
	now := time.Now()
	for _, who := range []string{"a", "b", "c"} {
		_, err := logins.Add(ctx, "ada", window.Event{At: now, Data: who}) // of one millisecond
		check(err)
	}
	for cursor := ""; ; {
		page, next, err := logins.RangePage(ctx, "ada", now.Add(-time.Minute), now.Add(time.Minute), cursor, 2)
		check(err)
		for _, e := range page {
			fmt.Print(e.Data, " ")
		}
		fmt.Println("page")
		if cursor = next; cursor == "" {
			break
		}
	}
	// Output:
	// a b page
	// c page
}

// The books: what was added is somewhere.
func ExampleStore_Stats() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	w, err := window.New(ctx, client, "orders", window.Config{Size: time.Minute, Lateness: -1})
	check(err)
	_, err = w.Add(ctx, "Berlin", clock("12:00:05", "order 1"), clock("12:01:00", "order 2"))
	check(err)
	st, err := w.Stats(ctx)
	check(err)
	fmt.Println("added", st.Events.Added, "open", st.Events.Open, "due", st.Events.Due, "balanced:", st.Balanced() == nil)
	// Output:
	// added 2 open 1 due 1 balanced: true
}

// The events of a window were deleted by hand. Audit finds it, and Repair moves the window to the
// dead-letter list.
func ExampleStore_Repair() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	w, err := window.New(ctx, client, "orders", window.Config{Size: time.Minute})
	check(err)
	_, err = w.Add(ctx, "Berlin", window.Event{At: time.UnixMilli(0), Data: "order 1"})
	check(err)
	check(client.Do(ctx, client.B().Del().Key("{orders}:window:events:0 60000 Berlin").Build()).Error())

	found, err := w.Audit(ctx)
	check(err)
	fmt.Println(found.Differences[0])
	mended, err := w.Repair(ctx)
	check(err)
	fmt.Println(mended.Repaired[0])
	found, err = w.Audit(ctx)
	fmt.Println(found.Balanced(), err)
	// Output:
	// window "0 60000 Berlin": its record counts 1 events, but 0 are there
	// window "0 60000 Berlin": buried: 1 of 1 events are missing
	// <nil> <nil>
}

// A program that observes knows the name of the windows, and not their configuration.
func ExampleOpen() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	_, err := window.Open(ctx, client, "orders")
	fmt.Println(errors.Is(err, window.ErrMissing))

	w, err := window.New(ctx, client, "orders", window.Config{Size: time.Minute, Lateness: -1})
	check(err)
	_, err = w.Add(ctx, "Berlin", clock("12:00:05", "order 1"), clock("12:00:06", "order 2"), clock("12:01:00", "order 3"))
	check(err)

	r, err := window.Open(ctx, client, "orders")
	check(err)
	fmt.Println("windows of", r.Size(), "and a sliding one of", r.Keep())
	for _, phase := range []window.Phase{window.PhaseOpen, window.PhaseDue} {
		page, _, err := r.Windows(ctx, phase, "", 10)
		check(err)
		for _, w := range page {
			fmt.Println(w.Phase, w.Key, w.Start.Format("15:04"), w.Events, "events")
		}
	}
	// Output:
	// true
	// windows of 1m0s and a sliding one of 0s
	// open Berlin 12:01 1 events
	// due Berlin 12:00 2 events
}
