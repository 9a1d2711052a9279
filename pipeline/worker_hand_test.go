package pipeline_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// watchedQueue calls a function with each leased batch, and with each that is handed off.
type watchedQueue struct {
	*queue.Queue
	leased, handed func(b *queue.Batch)
}

func (q *watchedQueue) Lease(ctx context.Context, o queue.LeaseOptions) (*queue.Batch, error) {
	b, err := q.Queue.Lease(ctx, o)
	if err == nil {
		q.leased(b)
	}
	return b, err
}

func (q *watchedQueue) Handoff(ctx context.Context, b *queue.Batch) error {
	q.handed(b)
	return q.Queue.Handoff(ctx, b)
}

// pausedTable calls a function before each batch is staged.
type pausedTable struct {
	*staging.Table[item]
	pause func()
}

func (p *pausedTable) Stage(ctx context.Context, l staging.Load[item]) (staging.Outcome, error) {
	p.pause()
	return p.Table.Stage(ctx, l)
}

// A worker with four loops and room for two batches of the largest size leases no third one, by
// records and by bytes.
func TestWorkerHoldsNoMoreThanItMay(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]pipeline.WorkerConfig{
		"records": {Records: 2, MaxRecords: 4},
		"bytes":   {Records: 50, Bytes: 1000, MaxBytes: 2000}, // two records a batch
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{})
			var mu sync.Mutex
			held, most := 0, 0
			count := func(n int) func(*queue.Batch) {
				return func(*queue.Batch) {
					mu.Lock()
					defer mu.Unlock()
					held += n
					most = max(most, held)
				}
			}
			r.flow.Queue = &watchedQueue{r.queue, count(1), count(-1)}
			records := numbered("a", 100, strings.Repeat("x", 400))
			r.push(records...)
			cfg.Concurrency = 4
			stop := r.start(cfg, pipeline.PromoterConfig{})
			defer stop()
			r.settled()
			stop()
			if most != 2 {
				t.Errorf("the worker held %d batches at once, want 2", most)
			}
			r.check(want{rows: idsOf(records)})
		})
	}
}

// The next batch is leased while the first one is staged: staging of the first one waits for that.
func TestNextBatchIsLeasedWhileOneIsStaged(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	leases, second := 0, make(chan struct{})
	var mu sync.Mutex
	r.flow.Queue = &watchedQueue{r.queue, func(*queue.Batch) {
		mu.Lock()
		defer mu.Unlock()
		if leases++; leases == 2 {
			close(second)
		}
	}, func(*queue.Batch) {}}
	r.flow.Table = &pausedTable{r.table, func() {
		select {
		case <-second:
		case <-time.After(30 * time.Second):
			t.Error("a batch is staged, and the next one is not leased")
		}
	}}
	records := numbered("a", 20, "good")
	r.push(records...)
	stop := r.start(pipeline.WorkerConfig{Records: 10}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	stop()
	r.check(want{rows: idsOf(records)})
}
