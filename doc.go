// Package headrace is a catalogue of data-pipeline patterns on Redis and Postgres, and nothing
// else. Each pattern is a package that you can import alone; package pipeline composes them.
//
// The promise: every record is accounted for. Once a push has succeeded, its record ends in exactly
// one place: promoted into its table once, dropped as the duplicate of a record that is itself
// accounted for, filtered by a stage, rejected with a reason and its payload, or in the dead-letter
// list.
//
// # Which package to use
//
//   - [github.com/headrace/headrace/queue] when work arrives faster than it is done and none may be
//     lost. Limit: delivery is at least once, so make the consumer idempotent by batch id.
//   - [github.com/headrace/headrace/dedup] when producers send records twice. Limit: it is exact
//     within its window and forgets ids after that.
//   - [github.com/headrace/headrace/lookup] when each record needs reference data.
//     Limit: a snapshot must fit into the process; larger tables use its Remote.
//   - [github.com/headrace/headrace/window] when events are counted by their own time. Limit:
//     events that arrive after their window was closed are set aside as late.
//   - [github.com/headrace/headrace/backpressure] when producers outrun consumers. Limit: the bound
//     holds only for producers that ask the gate.
//   - [github.com/headrace/headrace/staging] when batches go into Postgres fast, exactly once, and
//     validated. Limit: each target table has its own pair of staging tables.
//   - [github.com/headrace/headrace/matview] when dashboards must not read the live table. Limit: a
//     refresh costs as much as its query over the whole table; a roll-up handles only what can be
//     merged, such as sums and counts.
//   - [github.com/headrace/headrace/pipeline] when you want all of these as one chain. Limit: each
//     queue has one chain.
//
// # A chain
//
//	chain := pipeline.Then3(
//		pipeline.Decode(orders.Decode),                        // []byte → Order, or rejected
//		pipeline.Dedup(window, orders.ID),                     // one of each id
//		pipeline.Lookup("enrich", app.Catalog, orders.Enrich), // Order → Row, one version a batch
//	)
//	flow := pipeline.Flow[orders.Row]{Queue: q, Chain: chain, Table: table, Signals: signals}
//	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{})
//	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{})
//	// worker.Run(ctx) and promoter.Run(ctx), in one program or in many
//	books, err := flow.Books(ctx)
//	err = books.Balanced() // nil, or an error that names the line that is off
//
// The README has a complete program; the programs under examples/ show each package as a service
// would use it.
package headrace
