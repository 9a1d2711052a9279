package queue_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// BenchmarkConsumers: 1, 4, 16 and 64 consumers of one process drain the same queue, turn by turn
// in every round. A round's ratios are to its own best.
func BenchmarkConsumers(b *testing.B) {
	if b.N > 1 {
		return
	}
	b.ReportMetric(0, "ns/op") // the figures have rounds of their own
	counts := []int{1, 4, 16, 64}
	const rounds = 9
	c := servertest.Redis(b)
	q := open(b, c, queue.Config{})
	payloads := benchPayloads(benchRecords)
	rates, ratios := map[int][]float64{}, map[int][]float64{}
	for round := -1; round < rounds; round++ { // -1 warms up
		now := map[int]float64{}
		for i := range counts {
			n := counts[(i+round+1)%len(counts)] // each follows each other one
			fillWith(b, c, q, payloads)
			start := time.Now()
			now[n] = float64(drainBy(b, q, n)) / time.Since(start).Seconds()
		}
		if round < 0 {
			continue
		}
		best := 0.0
		for _, r := range now {
			best = max(best, r)
		}
		for n, r := range now {
			rates[n], ratios[n] = append(rates[n], r), append(ratios[n], r/best)
		}
	}
	best := 0.0
	for _, n := range counts {
		best = max(best, median(rates[n]))
	}
	for _, n := range counts {
		bench.Note(b, "queue/consumers-%d %.0f/s, of the best %.2f, in each round %.2f (%.2f–%.2f)",
			n, median(rates[n]), median(rates[n])/best, median(ratios[n]), slices.Min(ratios[n]), slices.Max(ratios[n]))
	}
}

func drainBy(b *testing.B, q *queue.Queue, consumers int) int {
	var total atomic.Int64
	var wg sync.WaitGroup
	for range consumers {
		wg.Go(func() { total.Add(int64(drain(b, q, benchBatch))) })
	}
	wg.Wait()
	return int(total.Load())
}

func median[T int | float64 | time.Duration](x []T) T {
	return slices.Sorted(slices.Values(x))[len(x)/2]
}
