package monitor

import (
	"context"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline/otelpipeline"
)

// StartOrders is Start for a program of the orders pipeline: it is ready while both stores answer,
// and it has gauges of what they hold.
func StartOrders(ctx context.Context, p *program.Program, listen string, app *orders.App) (*Monitor, error) {
	m, err := Start(ctx, p, listen, map[string]Ping{"Redis": program.PingRedis(app.Redis), "Postgres": app.Postgres.Ping})
	if err != nil {
		return nil, err
	}
	stores := otelpipeline.Stores{Name: app.Queue.Name(), Queue: app.Queue, Table: app.Table, Dedup: app.Window, DedupWindow: orders.DedupWindow}
	if app.Views != nil {
		stores.Views = app.Views
	}
	err = m.Watch(stores)
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}
