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

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
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
	orders.Job
	// payloads wraps the payloads that are pushed. after runs when the job is done and the nodes still
	// run, with the report that follows. Tests set them.
	payloads func(n *nodes, all iter.Seq[[]byte]) iter.Seq[[]byte]
	after    func(ctx context.Context, n *nodes, report func(io.Writer) error) error
}

func main() {
	orders.MainJob("cluster", help, func(ctx context.Context, p *program.Program, job orders.Job) error {
		return run(ctx, p, options{Job: job})
	})
}
