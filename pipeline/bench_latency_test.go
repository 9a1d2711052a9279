package pipeline_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/pipeline"
)

// latencyOrders is how many orders a round pushes, one after the other.
const latencyOrders = 40

// BenchmarkLatency prints how long one order takes that is pushed into an idle pipeline, until a
// query of a dashboard counts it. The query is repeated every half millisecond.
func BenchmarkLatency(b *testing.B) {
	if b.N > 1 {
		return
	}
	j := newFullJob(b, 0)
	ctx, stop := context.WithCancel(context.WithoutCancel(b.Context()))
	worker, err := pipeline.NewWorker(j.app.Flow(), pipeline.WorkerConfig{Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	promoter, err := pipeline.NewPromoter(j.app.Flow(), pipeline.PromoterConfig{Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { _ = worker.Run(ctx) })
	wg.Go(func() { _ = promoter.Run(ctx) })
	var took latencies
	counted := int64(0)
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for round := range bench.DefaultRounds + 1 {
		gen, err := orders.NewGenerator(orders.Config{Seed: uint64(round + 1), Orders: latencyOrders})
		if err != nil {
			b.Fatal(err)
		}
		for p := range gen.All() {
			begun := time.Now()
			if err := j.app.Push(ctx, p); err != nil {
				b.Fatal(err)
			}
			for before := counted; counted == before; <-tick.C {
				const sql = "SELECT coalesce(sum(orders), 0) FROM shipping_zone_stats_rollup"
				if err := j.pool.QueryRow(ctx, sql).Scan(&counted); err != nil {
					b.Fatal(err)
				}
				if time.Since(begun) > time.Minute {
					b.Fatal("waited a minute in vain for one order")
				}
			}
			if round > 0 { // the first one warms up
				took = append(took, time.Since(begun))
			}
		}
	}
	bench.Note(b, "pipeline/latency: one order into an idle pipeline, until a dashboard counts it: %s", took)
}
