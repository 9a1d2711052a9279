package pipeline_test

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// A few records on their whole way: pushed, transformed, staged, promoted, acknowledged, and
// accounted for.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	redis, postgres, name, cleanup := connect()
	defer cleanup()

	q, err := queue.New(ctx, redis, name, queue.Config{})
	must(err)
	window, err := dedup.New(ctx, redis, name, dedup.Config{Window: time.Hour})
	must(err)
	table, err := staging.New(ctx, postgres, "readings", staging.Config[reading]{Create: true, Key: []string{"sensor"}})
	must(err)
	signals, err := pipeline.NewSignals(redis, name)
	must(err)
	flow := pipeline.Flow[reading]{
		Queue: q,
		Chain: pipeline.Then3(
			pipeline.Decode(parseReading),
			pipeline.Dedup(window, sensorOf),
			pipeline.Filter("above zero", func(r reading) bool { return r.Celsius > 0 }),
		),
		Table:   table,
		Signals: signals,
	}
	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{})
	must(err)
	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{})
	must(err)
	ended := make(chan error)
	go func() { ended <- pipeline.Run(ctx, worker, promoter) }()

	must(q.Push(ctx, []byte("attic 31"), []byte("cellar 12"), []byte("attic 31"), []byte("garden -4"), []byte("roof hot")))
	must(flow.Drain(ctx)) // until every record is accounted for
	books, err := flow.Books(ctx)
	must(err)
	for _, line := range books.Lines() {
		fmt.Println(line.Sum)
	}
	fmt.Println("balanced:", books.Balanced() == nil)
	stop()
	fmt.Println(<-ended)
	// Output:
	// taken 5 = acked 5 + in flight 0 + dead 0 + discarded 0
	// records 5 = kept 2 + duplicates 1 + filtered 1 + rejected 1
	// rows of the kept 2 = promoted 2 + conflicts 0 + rejected by a rule 0
	// committed 5 = acked 5 + committed and not yet acked 0
	// balanced: true
	// <nil>
}
