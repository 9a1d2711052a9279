// Command cluster runs the main job on several nodes, here all on the loopback of this machine: a
// Redis Cluster of three masters and two Postgres. Each shard of the queue is on a master and
// belongs to one Postgres, which has a ledger of its own. The first Postgres also coordinates: a
// partitioned parent over postgres_fdw reads the tables of all as one. At the end it shows the
// books over all nodes. It exits with 1 if they do not balance.
//
// Look at flows.go for the wiring of the shards, and at parent.sql for the table over all nodes.
package main

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"os"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline"
)

const help = `
Usage: cluster [flags]

Runs the orders job on a Redis Cluster of three masters and two Postgres, which
it starts on this machine and removes again. It shards the queue by order id,
and compares the books over all nodes with what was generated.

Example:
  cluster -orders 100000
`

type options struct {
	orders orders.Config
	worker pipeline.WorkerConfig
	// payloads wraps the payloads that are pushed. after runs when the job is done and the nodes still
	// run, with the report that follows. Tests set them.
	payloads func(n *nodes, all iter.Seq[[]byte]) iter.Seq[[]byte]
	after    func(ctx context.Context, n *nodes, report func(io.Writer) error) error
}

// parse reads the command line.
func parse(p *program.Program, args []string) (o options, err error) {
	o.orders.Seed = 1
	flags := program.NewFlags(p.Name, help)
	orders.GeneratorFlags(flags, &o.orders)
	orders.WorkerFlags(flags, &o.worker)
	if err := flags.Parse(p, args); err != nil {
		return o, err
	}
	if err := o.orders.Check(); err != nil {
		return o, &program.UsageError{Text: err.Error()}
	}
	return o, nil
}

func main() {
	program.Main("cluster", func(ctx context.Context, p *program.Program, args []string) error {
		o, err := parse(p, args)
		if err != nil {
			return err
		}
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
		return run(ctx, p, o)
	})
}
