// Command promoter moves staged orders into the durable table, with the dashboards that are
// roll-ups, and acknowledges their batches after the commit. The dashboards that are views are
// refreshed in the pauses, at the latest after a minute. One promoter is enough; several take
// turns. It prints each promotion, and the books at the end.
//
//	export REDIS_URL=redis://localhost:6379 DATABASE_URL=postgres://localhost/shop
//	go run ./examples/promoter
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/examples/internal/monitor"
	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/staging"
)

const help = `
Usage: promoter [flags]

Moves staged orders into the table "orders" of the database of DATABASE_URL,
acknowledges their batches in the Redis of REDIS_URL, and keeps the dashboards
current: roll-ups at once, views in the pauses of the load.
Ctrl-C finishes the current promotion and prints the books. The exit code is 1
if they do not balance.

Example:
  export REDIS_URL=redis://localhost:6379
  export DATABASE_URL=postgres://localhost/shop
  promoter
`

// booksTimeout bounds the reading of the books after the end.
const booksTimeout = 10 * time.Second

func main() { program.Main("promoter", run) }

func run(ctx context.Context, p *program.Program, args []string) error {
	var listen string
	flags := program.NewFlags(p.Name, help)
	var o orders.Options
	orders.NoCreateFlag(flags, &o)
	flags.Stores(p)
	flags.Listen(&listen)
	if err := flags.Parse(p, args); err != nil {
		return err
	}
	if o.NoCreate { // otherwise it also creates what another program needs
		o.Role = staging.RolePromoter
	}
	app, done, err := orders.Connect(ctx, p, o)
	if err != nil {
		return err
	}
	defer done()
	m, err := monitor.StartOrders(ctx, p, listen, app)
	if err != nil {
		return err
	}
	defer m.Close()
	promoter, err := pipeline.NewPromoter(app.Flow(), pipeline.PromoterConfig{
		Notify: app.Views.Notify,
		Observer: m.Observer(pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
			if e.Op == pipeline.OpPromote && e.Err == nil {
				fmt.Fprintf(p.Out, "promoted %d records, %d rows, in %v\n", e.Records, e.Rows, e.Duration.Round(time.Millisecond))
			}
		})),
	})
	if err != nil {
		return err
	}
	p.Say("promoting; Ctrl-C finishes the current promotion")
	if err := pipeline.Run(ctx, promoter, app.Views); err != nil { // the views stop last
		return err
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), booksTimeout)
	defer cancel()
	books, err := app.Flow().Books(last)
	if err != nil {
		return err
	}
	for _, l := range books.Lines() {
		fmt.Fprintln(p.Out, l.Name+":", l.Sum)
	}
	return books.Balanced()
}
