package pipeline_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// A reading is "sensor value": the sensor's name is its id here, so a second reading of the same
// sensor is a duplicate.
type reading struct {
	Sensor  string `db:"sensor"`
	Celsius int32  `db:"celsius"`
}

func parseReading(payload []byte) (reading, error) {
	sensor, value, _ := strings.Cut(string(payload), " ")
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil {
		return reading{}, pipeline.Reject("bad_value", "%q is not a whole number", value)
	}
	return reading{sensor, int32(n)}, nil
}

// The whole way of a few records: pushed, transformed, staged, promoted, acknowledged, and
// accounted for.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	tb, cleanup := servertest.Example("pipeline")
	defer cleanup()
	redis, postgres, name := servertest.Redis(tb), servertest.Postgres(tb), servertest.Prefix(tb)

	q, err := queue.New(ctx, redis, name, queue.Config{})
	if err != nil {
		panic(err)
	}
	window, err := dedup.New(ctx, redis, name, dedup.Config{Window: time.Hour})
	if err != nil {
		panic(err)
	}
	table, err := staging.New(ctx, postgres, "readings", staging.Config[reading]{Create: true, Key: []string{"sensor"}})
	if err != nil {
		panic(err)
	}
	flow := pipeline.Flow[reading]{
		Queue: q,
		Table: table,
		Chain: pipeline.Then3(
			pipeline.Decode(parseReading),
			pipeline.Dedup(window, func(r reading) string { return r.Sensor }),
			pipeline.Filter("above zero", func(r reading) bool { return r.Celsius > 0 }),
		),
	}
	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{})
	if err != nil {
		panic(err)
	}
	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{PollInterval: 10 * time.Millisecond})
	if err != nil {
		panic(err)
	}
	ended := make(chan error, 2)
	go func() { ended <- worker.Run(ctx) }()
	go func() { ended <- promoter.Run(ctx) }()

	err = q.Push(ctx, []byte("attic 31"), []byte("cellar 12"), []byte("attic 31"), []byte("garden -4"), []byte("roof hot"))
	if err != nil {
		panic(err)
	}
	for { // until every record is accounted for
		books, err := flow.Books(ctx, time.Time{})
		if err != nil {
			panic(err)
		}
		if books.Quiet && books.Redis.Acked == 5 {
			for _, line := range books.Lines() {
				fmt.Println(line.Sum)
			}
			fmt.Println("balanced:", books.Balanced() == nil)
			break
		}
	}
	stop()
	fmt.Println(<-ended, <-ended)
	// Output:
	// taken 5 = acked 5 + in flight 0 + dead 0 + discarded 0
	// records 5 = kept 2 + duplicates 1 + filtered 1 + rejected 1
	// rows of the kept 2 = promoted 2 + conflicts 0 + rejected by a rule 0
	// committed 5 = acked 5 + committed and not yet acked 0
	// balanced: true
	// <nil> <nil>
}
