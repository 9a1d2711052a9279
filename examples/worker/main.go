// Command worker takes orders from the Redis queue, decodes, deduplicates and enriches them in
// batches, and stages them in Postgres. Start as many as you like; kill one with -9, and its
// batches come back after their lease. Look at [orders.App.Flow] for the chain.
//
//	REDIS_URL=redis://localhost:6379 DATABASE_URL=postgres://localhost/shop go run ./examples/worker
package main

import (
	"context"

	"github.com/headrace/headrace/examples/internal/monitor"
	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/staging"
)

const help = `
Usage: worker [flags]

Takes batches of orders from the Redis queue of REDIS_URL, decodes, deduplicates
and enriches them, and stages them in the database of DATABASE_URL. It creates
the tables that are missing. Ctrl-C finishes the leased batches.

Example:
  export REDIS_URL=redis://localhost:6379
  export DATABASE_URL=postgres://localhost/shop
  worker
`

func main() { program.Main("worker", run) }

func run(ctx context.Context, p *program.Program, args []string) error {
	var cfg pipeline.WorkerConfig
	flags := program.NewFlags(p.Name, help)
	orders.WorkerFlags(flags, &cfg)
	var listen string
	var o orders.Options
	orders.NoCreateFlag(flags, &o)
	flags.Stores(p)
	flags.Listen(&listen)
	if err := flags.Parse(p, args); err != nil {
		return err
	}
	if o.NoCreate { // otherwise it also creates what another program needs
		o.Role = staging.RoleWorker
	}
	app, done, err := orders.Connect(ctx, p, o)
	if err != nil {
		return err
	}
	defer done()
	if err := app.Ensure(ctx); err != nil {
		return err
	}
	m, err := monitor.StartOrders(ctx, p, listen, app)
	if err != nil {
		return err
	}
	defer m.Close()
	cfg.Observer = m.Observer(nil)
	worker, err := pipeline.NewWorker(app.Flow(), cfg)
	if err != nil {
		return err
	}
	p.Say("working; Ctrl-C finishes the leased batches")
	return pipeline.Run(ctx, worker, pipeline.ServiceFunc(app.RunLookups)) // the lookups stop last
}
