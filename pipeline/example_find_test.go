package pipeline_test

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Where is the reading of the attic? It waits in the queue behind another one.
func ExampleFlow_Find() {
	ctx := context.Background()
	flow, q, cleanup := readings(ctx)
	defer cleanup()
	must(q.Push(ctx, []byte("cellar 12"), []byte("attic 31")))

	found, err := flow.Find(ctx, "attic")
	must(err)
	fmt.Println(found.Places[0].Location, found.Places[0].Position)

	batch, err := q.Lease(ctx, queue.LeaseOptions{Worker: "worker-3"})
	must(err)
	found, err = flow.Find(ctx, "attic")
	must(err)
	p := found.Places[0]
	fmt.Println(p.Location, p.Worker, p.Attempt, p.Batch == batch.ID, p.Position, p.Records)

	found, err = flow.Find(ctx, "kitchen")
	must(err)
	fmt.Print(found)
	// Output:
	// ready 1
	// leased worker-3 1 true 1 2
	// kitchen
	//   not found
	//   not looked through: payloads: compared by their text, not by the id that the chain computes
	//   not looked through: batches by id: there is no dedup window that knows them
}

// A tool that knows the names of a pipeline, and not the type of its rows.
func ExampleFind() {
	ctx := context.Background()
	redis, postgres, name, cleanup := connect()
	defer cleanup()
	_, err := staging.New(ctx, postgres, "readings", staging.Config[reading]{Create: true, Key: []string{"sensor"}})
	must(err)

	q, err := queue.New(ctx, redis, name, queue.Config{})
	must(err)
	must(q.Push(ctx, []byte("attic 31")))
	window, err := dedup.New(ctx, redis, name, dedup.Config{})
	must(err)
	table, err := staging.NewFinder(ctx, postgres, "readings", "")
	must(err)
	found, err := pipeline.Find(ctx, pipeline.FindSources{Queue: q, Window: window, Table: table}, "attic")
	must(err)
	fmt.Println(found.Places)
	text, err := found.Places[0].Location.MarshalText()
	must(err)
	fmt.Printf("%s\n", text)
	// Output:
	// [ready, 0 records before it]
	// ready
}
