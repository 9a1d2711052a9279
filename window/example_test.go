package window_test

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
)

// Orders a minute: the window of 12:00 closes when an order of 12:01:10 has come, and what comes for it then is late.
func Example() {
	ctx := context.Background()
	client, stop := servertest.ExampleRedis()
	defer stop()

	w, err := window.New(client, "orders", window.Config{Size: time.Minute, Lateness: 10 * time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}
	order := func(clock, id string) {
		at, _ := time.Parse(time.DateTime, "2026-01-02 "+clock)
		if _, err := w.Add(ctx, "Berlin", window.Event{At: at, Data: id}); err != nil {
			fmt.Println(err)
		}
	}
	order("12:00:05", "order 1")
	order("12:01:02", "order 3")
	order("12:00:59", "order 2") // out of order, and in time
	order("12:01:10", "order 4")
	order("12:00:30", "order 5")

	closed, err := w.CloseDue(ctx, 10)
	if err != nil {
		fmt.Println(err)
	}
	for _, c := range closed {
		fmt.Println(c.Key, c.Start.Format("15:04"), len(c.Events), "orders, closed by", c.Reason)
		if err := w.Done(ctx, c); err != nil { // after the result is safe
			fmt.Println(err)
		}
	}
	late, err := w.Late(ctx, 10)
	for _, e := range late {
		fmt.Println(e.Data, "is late:", e.Reason)
	}
	fmt.Println(err)
	// Output:
	// Berlin 12:00 2 orders, closed by watermark
	// order 5 is late: watermark
	// <nil>
}

// A limit of three logins in ten minutes.
func ExampleStore_LastCount() {
	ctx := context.Background()
	client, stop := servertest.ExampleRedis()
	defer stop()

	logins, err := window.New(client, "logins", window.Config{Keep: 10 * time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	for attempt := range 5 {
		n, err := logins.LastCount(ctx, "ada", 10*time.Minute)
		if err != nil {
			fmt.Println(err)
		}
		if n >= 3 {
			fmt.Println("attempt", attempt, "refused")
			continue
		}
		if _, err := logins.Add(ctx, "ada", window.Event{At: time.Now(), Data: fmt.Sprint(attempt)}); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// attempt 3 refused
	// attempt 4 refused
}
