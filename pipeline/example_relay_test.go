package pipeline_test

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// The rows of a table go into a queue, each once, also when the program starts again.
func ExampleRelay() {
	ctx := context.Background()
	redis, postgres, name, cleanup := connect()
	defer cleanup()
	_, err := postgres.Exec(ctx, `CREATE TABLE orders (id bigint PRIMARY KEY, item text);
		INSERT INTO orders VALUES (8, 'chair'), (9, 'table'), (10, 'lamp')`)
	must(err)
	q, err := queue.New(ctx, redis, name, queue.Config{})
	must(err)
	for range 2 { // the program, started twice
		relay, err := pipeline.NewRelay(q, "orders", pipeline.RelayConfig{
			DB:    postgres,
			SQL:   `SELECT o.id::text, row_to_json(o)::text FROM orders o WHERE o.id > $1::text::bigint ORDER BY o.id LIMIT $2`,
			Start: "0",
		})
		must(err)
		n, err := relay.Step(ctx)
		must(err)
		fmt.Println(n, "records")
	}
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	must(err)
	for _, p := range batch.Payloads {
		fmt.Printf("%s\n", p)
	}
	// Output:
	// 3 records
	// 0 records
	// {"id":8,"item":"chair"}
	// {"id":9,"item":"table"}
	// {"id":10,"item":"lamp"}
}

// A relay runs next to the other parts of a program until its context ends.
func ExampleRelay_Run() {
	ctx, stop := context.WithCancel(context.Background())
	redis, postgres, name, cleanup := connect()
	defer cleanup()
	q, err := queue.New(ctx, redis, name, queue.Config{})
	must(err)
	relay, err := pipeline.NewRelay(q, "numbers", pipeline.RelayConfig{
		DB: postgres, SQL: `SELECT s.n::text, s.n::text FROM generate_series(8, 12) s(n) WHERE s.n > $1::text::int ORDER BY s.n LIMIT $2`, Start: "0",
	})
	must(err)
	done := make(chan error)
	go func() { done <- pipeline.Run(ctx, relay) }()
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	must(err)
	stop()
	fmt.Println(len(batch.Payloads), <-done)
	// Output: 5 <nil>
}
