package pipelinetest_test

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/pipelinetest"
)

// A whole pipeline without servers: a real worker and a real promoter on stores in memory.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	q := pipelinetest.NewQueue("words")
	table := pipelinetest.NewTable[string]()
	flow := pipeline.Flow[string]{Queue: q, Table: table, Chain: pipeline.Then(
		pipeline.Decode(func(p []byte) (string, error) { return string(p), nil }),
		pipeline.Dedup(pipelinetest.NewWindow(q), func(s string) string { return s }),
	)}
	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
		if e.Op == pipeline.OpHandoff {
			stop()
		}
	})})
	if err != nil {
		panic(err)
	}
	if err := q.Push(ctx, []byte("to"), []byte("be"), []byte("to")); err != nil {
		panic(err)
	}
	if err := worker.Run(ctx); err != nil {
		panic(err)
	}
	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{})
	if err != nil {
		panic(err)
	}
	fmt.Println(promoter.Promote(context.Background()))
	fmt.Println(table.Rows())
	// Output:
	// 1 <nil>
	// [to be]
}
