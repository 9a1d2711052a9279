// Command worker takes orders from the Redis queue, decodes, deduplicates and enriches them in batches, and stages them in Postgres. Start as
// many as you like; kill one with -9, and its batches come back after their lease. Look at App.Flow in package orders for the chain.
//
//	REDIS_URL=redis://localhost:6379 DATABASE_URL=postgres://localhost/shop go run ./examples/worker
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var cfg pipeline.WorkerConfig
	flag.IntVar(&cfg.Concurrency, "concurrency", 2, "batches in hand at once")
	flag.IntVar(&cfg.Records, "batch", 2000, "records of a batch")
	flag.DurationVar(&cfg.LeaseDuration, "lease", pipeline.DefaultLeaseDuration, "how long a batch stays with a worker that gives no sign of life")
	flag.Parse()
	redis, pg, closeBoth, err := orders.Connect(ctx)
	if err != nil {
		return err
	}
	defer closeBoth()
	app, err := orders.Open(ctx, redis, pg, orders.Name)
	if err != nil {
		return err
	}
	if err := app.Refresh(ctx); err != nil {
		return err
	}
	worker, err := pipeline.NewWorker(app.Flow(), cfg)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := app.RunLookups(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "worker: lookups:", err)
		}
	})
	defer wg.Wait()
	fmt.Println("working; Ctrl-C finishes the batches in hand")
	return worker.Run(ctx)
}
