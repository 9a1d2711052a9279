// Package headrace is a catalogue of data-pipeline patterns on Redis and Postgres, and nothing else. Each pattern is a package
// that you can import by itself; package pipeline composes them. Its promise: every record is accounted for. A record that a
// producer was told is accepted ends promoted into its durable table once, dropped as the duplicate of a record that is
// itself accounted for, filtered by a stage that says so, rejected with a reason and its payload, or in the dead list.
//
//	use …                                                       when …                                                  limit
//	[github.com/headrace/headrace/queue]         work arrives faster than it is done and none may be lost    at least once: make the consumer idempotent by batch id
//	[github.com/headrace/headrace/dedup]         producers send things twice                                 exact within its window, forgets after it
//	[github.com/headrace/headrace/lookup]        each record needs reference data                            a snapshot must fit the process (or use its remote table)
//	[github.com/headrace/headrace/window]        events are summed up by their own time                      late events come as such
//	[github.com/headrace/headrace/backpressure]  producers outrun consumers                                  producers must ask the gate
//	[github.com/headrace/headrace/staging]       batches go into Postgres fast, once, and validated          one target table for one staging pair
//	[github.com/headrace/headrace/matview]       dashboards must not read the live table                     a full refresh costs what the table weighs; a roll-up does not
//	[github.com/headrace/headrace/pipeline]      all of these at once                                        one chain for one queue
//
// A chain, composed:
//
//	chain := pipeline.Then3(
//		pipeline.Decode(orders.Decode),                           // []byte → Order, or rejected with a reason
//		pipeline.Dedup(window, orders.ID),                        // one of each id
//		pipeline.Lookup("enrich", app.Catalog, orders.Enrich), // one version of the reference data a batch
//	)
//	flow := pipeline.Flow[orders.Row]{Queue: q, Chain: chain, Table: table, Signals: signals}
//	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{})
//	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{})
//	// worker.Run(ctx) and promoter.Run(ctx), in one program or in many
//	books, err := flow.Books(ctx, time.Time{}) // and books.Balanced() says whether every record is accounted for
//
// The programs under examples/ show each package where a service would use it.
package headrace
