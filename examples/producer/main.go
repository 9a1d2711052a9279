// Command producer pushes generated orders into the Redis queue. Look at the push: the gate holds the producer back while the workers lag
// behind, so Redis' memory stays bounded. Any other program may produce too: redis-cli LPUSH '{orders}:ready' '{"order_id":…}' does.
//
//	REDIS_URL=redis://localhost:6379 DATABASE_URL=postgres://localhost/shop go run ./examples/producer -orders 100000
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
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "producer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg := orders.Config{}
	flag.IntVar(&cfg.Orders, "orders", 10_000, "records to push")
	flag.Float64Var(&cfg.Duplicates, "duplicates", 0.05, "share of them that repeat an earlier order, 0 to 1")
	flag.Float64Var(&cfg.Bad, "bad", 0.005, "share of them that must be rejected, 0 to 1")
	flag.BoolVar(&cfg.Burst, "burst", false, "give all orders one timestamp")
	flag.Uint64Var(&cfg.Seed, "seed", uint64(time.Now().UnixNano()), "the same seed makes the same orders")
	flag.Parse()
	gen, err := orders.NewGenerator(cfg)
	if err != nil {
		return err
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
	start := time.Now()
	batch := make([][]byte, 0, 500)
	for payload, more := gen.Next(); more; {
		batch = append(batch, payload)
		if payload, more = gen.Next(); len(batch) == cap(batch) || !more {
			if err := app.Push(ctx, batch...); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	want := gen.Expected()
	fmt.Printf("pushed %d orders in %v: %d unique, %d duplicates, rejects %v\n", want.Orders, time.Since(start).Round(time.Millisecond), want.Unique, want.Duplicates, want.Rejected)
	return nil
}
