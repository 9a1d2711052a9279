// Command stats shows the state of the orders pipeline: the books of both stores, what waits where, how old it is, and how fresh the views are. The
// queue's side costs the same whatever waits in it; the table's side sums the ledger, one row a batch. With -watch it looks again every few seconds.
//
//	REDIS_URL=redis://localhost:6379 DATABASE_URL=postgres://localhost/shop go run ./examples/stats -watch 5s
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/headrace/headrace/examples/orders"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "stats:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	watch := flag.Duration("watch", 0, "look again after this time; 0: look once")
	flag.Parse()
	if *watch < 0 || *watch > 0 && *watch < 100*time.Millisecond {
		return fmt.Errorf("-watch is %v: must be 0 or at least 100ms", *watch)
	}
	redis, pg, closeBoth, err := orders.Connect(ctx)
	if err != nil {
		return err
	}
	defer closeBoth()
	app, err := orders.Open(ctx, redis, pg, orders.Name)
	if err != nil {
		return err
	}
	for {
		if err := show(ctx, app); err != nil || *watch == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(*watch):
		}
	}
}

func show(ctx context.Context, app *orders.App) error {
	books, err := app.Flow().Books(ctx, time.Time{})
	if err != nil {
		return err
	}
	window, err := app.Window.Len(ctx)
	if err != nil {
		return err
	}
	views, err := app.Views.Freshness(ctx)
	if err != nil {
		return err
	}
	q := books.Redis
	fmt.Printf("%s  balanced: %v\n", time.Now().Format(time.TimeOnly), books.Balanced() == nil)
	fmt.Printf("  queue    ready %d, delayed %d, in flight %d (handed off %d), dead %d, redelivered %d, oldest %v\n",
		q.Ready, q.Delayed, q.InFlight, q.HandedOff, q.Dead, q.Redelivered, q.OldestAge)
	fmt.Printf("  window   about %d ids\n", window)
	for _, l := range books.Lines() {
		fmt.Printf("  %-8s %s\n", l.Name, l.Sum)
	}
	for _, v := range views {
		fmt.Printf("  view     %s: refreshed %v ago in %v, %d bytes, about %d rows\n", v.View, v.Age.Round(time.Second), v.Duration.Round(time.Millisecond), v.Bytes, v.Rows)
	}
	return nil
}
