// Command demo runs the main job end to end: it generates orders, with duplicates and bad ones among them, pushes them into a Redis
// queue, decodes, deduplicates and enriches them in batches, stages them in Postgres, promotes them, refreshes the views, and shows the
// books: what became of every single record. It exits with 1 if they do not balance.
//
// Look at run.go for the wiring of a whole pipeline in one program; package examples/orders holds the parts that the separate programs (producer,
// worker, promoter) share. The servers are throwaway ones, unless REDIS_URL and DATABASE_URL name yours.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/headrace/headrace/examples/orders"
)

type options struct {
	orders, workers, batch int
	duplicates, bad        float64
	burst                  bool
	seed                   uint64
}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.IntVar(&o.orders, "orders", orders.DefaultOrders, "records to push, 1 to 100000000")
	fs.Float64Var(&o.duplicates, "duplicates", orders.DefaultDuplicates, "share of them that repeat an earlier order, 0 to 0.9")
	fs.Float64Var(&o.bad, "bad", orders.DefaultBad, "share of them that must be rejected, 0 to 0.9")
	fs.BoolVar(&o.burst, "burst", false, "give all orders one timestamp")
	fs.IntVar(&o.workers, "workers", 2, "batches in hand at once, 1 to 64")
	fs.IntVar(&o.batch, "batch", 2000, "records of a batch, 1 to 100000")
	fs.Uint64Var(&o.seed, "seed", 1, "the same seed makes the same orders")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	switch {
	case fs.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q; -h lists the flags", fs.Arg(0))
	case o.orders < 1 || o.orders > 100_000_000:
		return o, fmt.Errorf("-orders is %d: must be from 1 to 100000000", o.orders)
	case !(o.duplicates >= 0 && o.duplicates <= 0.9):
		return o, fmt.Errorf("-duplicates is %v: must be from 0 to 0.9", o.duplicates)
	case !(o.bad >= 0 && o.bad <= 0.9):
		return o, fmt.Errorf("-bad is %v: must be from 0 to 0.9", o.bad)
	case o.duplicates+o.bad > 1:
		return o, fmt.Errorf("-duplicates and -bad are %v together: must be at most 1", o.duplicates+o.bad)
	case o.workers < 1 || o.workers > 64:
		return o, fmt.Errorf("-workers is %d: must be from 1 to 64", o.workers)
	case o.batch < 1 || o.batch > 100_000:
		return o, fmt.Errorf("-batch is %d: must be from 1 to 100000", o.batch)
	}
	return o, nil
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err == nil {
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = run(ctx, os.Stdout, o)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}
