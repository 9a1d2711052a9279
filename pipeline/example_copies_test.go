package pipeline_test

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/pipeline"
)

// Each copy of a bad record is rejected, and not only the first one.
func ExampleDedupWith() {
	ctx := context.Background()
	redis, _, name, cleanup := connect()
	defer cleanup()
	window, err := dedup.New(ctx, redis, name, dedup.Config{})
	must(err)
	chain := pipeline.Then3(
		pipeline.Decode(parseReading),
		pipeline.DedupWith(window, sensorOf, pipeline.DedupConfig{Copies: pipeline.CopiesJudged}),
		pipeline.Map("range", func(r reading) (reading, error) {
			if r.Celsius > 100 {
				return r, pipeline.Reject("too_hot", "%d °C", r.Celsius)
			}
			return r, nil
		}),
	)
	result, err := pipeline.Try(ctx, chain, "oven 220", "attic 31", "oven 220", "attic 31")
	must(err)
	for _, r := range result.Records {
		fmt.Println(r.Fate)
	}
	// Output:
	// rejected
	// kept
	// rejected
	// duplicate
}
