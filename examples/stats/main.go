// Command stats shows the state of the orders pipeline: the books of both stores, what waits where,
// how old it is, and how fresh the views are. It only reads, so a role with SELECT is enough. The
// queue's side costs the same whatever waits in it; the table's side sums the ledger, one row a
// batch.
//
//	export REDIS_URL=redis://localhost:6379 DATABASE_URL=postgres://localhost/shop
//	go run ./examples/stats -watch 5
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/examples/internal/ops"
	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
)

const help = `
Usage: stats [flags]

Shows the state of the orders pipeline in the Redis of REDIS_URL and the
database of DATABASE_URL. It only reads. The exit code is 1 if the books do not
balance.

Example:
  export REDIS_URL=redis://localhost:6379
  export DATABASE_URL=postgres://localhost/shop
  stats -watch 5
`

func main() { program.Main("stats", run) }

func run(ctx context.Context, p *program.Program, args []string) error {
	var watch time.Duration
	flags := program.NewFlags(p.Name, help)
	flags.Duration(&watch, "watch", 0, 100*time.Millisecond, "show the state again after this time")
	flags.Stores(p)
	if err := flags.Parse(p, args); err != nil {
		return err
	}
	redis, pg, done, err := p.Both(ctx)
	if err != nil {
		return err
	}
	defer done()
	read := func(ctx context.Context) (ops.Stats, error) {
		pipeline, err := ops.Open(ctx, redis, pg, orders.Names) // anew each time: the table may come
		if err != nil {
			return ops.Stats{}, err
		}
		return pipeline.Stats(ctx)
	}
	var before *ops.Stats
	return program.Watch(ctx, p, watch, func(ctx context.Context, width int) (string, error) {
		now, err := read(ctx)
		if err != nil {
			return "", fmt.Errorf("cannot read the state: %w", err)
		}
		text := now.Text(width, before)
		before = &now
		return text, now.Balanced()
	})
}
