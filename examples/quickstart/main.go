// Command quickstart is the program of the README: three JSON readings go from Redis to Postgres,
// and the books show what became of each.
//
//	export REDIS_URL=redis://localhost:6379 DATABASE_URL=postgres://localhost/shop
//	go run ./examples/quickstart
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

type Reading struct {
	ID      string  `json:"id" db:"id"`
	Celsius float64 `json:"celsius" db:"celsius"`
}

func decode(payload []byte) (r Reading, err error) { return r, json.Unmarshal(payload, &r) }

func main() {
	ctx := context.Background()
	redis := must(rueidis.NewClient(must(rueidis.ParseURL(os.Getenv("REDIS_URL")))))
	postgres := must(pgxpool.New(ctx, os.Getenv("DATABASE_URL")))

	readings := must(queue.New(ctx, redis, "readings", queue.Config{}))
	seen := must(dedup.New(ctx, redis, "readings", dedup.Config{Window: time.Hour}))
	table := must(staging.New(ctx, postgres, "readings", staging.Config[Reading]{Create: true, Key: []string{"id"}}))
	flow := pipeline.Flow[Reading]{
		Queue: readings,
		Chain: pipeline.Then(
			pipeline.Decode(decode), // []byte → Reading, or rejected with a reason
			pipeline.Dedup(seen, func(r Reading) string { return r.ID }),
		),
		Table: table,
	}
	worker := must(pipeline.NewWorker(flow, pipeline.WorkerConfig{}))       // any number, in any process
	promoter := must(pipeline.NewPromoter(flow, pipeline.PromoterConfig{})) // one is enough
	go func() { check(worker.Run(ctx)) }()
	go func() { check(promoter.Run(ctx)) }()

	record := []byte(`{"id":"attic","celsius":21.5}`)
	check(readings.Push(ctx, record, record, []byte("not JSON")))
	check(flow.Drain(ctx)) // returns when every record is accounted for

	books := must(flow.Books(ctx)) // the books of both stores
	for _, line := range books.Lines() {
		fmt.Println(line.Sum)
	}
	check(books.Balanced()) // nil, or an error that names the line that is off
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	check(err)
	return v
}
