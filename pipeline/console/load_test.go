package console_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/headrace/headrace/pipeline"
)

// load is a producer, a worker and a promoter that keep a pipeline busy.
type load struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	pushed, rows int // of which rows records end in the table; read after stop
}

// startLoad keeps the pipeline busy until stop, or until the end of the test.
func (r *rig) startLoad() *load {
	r.t.Helper()
	worker, err := pipeline.NewWorker(r.flow, pipeline.WorkerConfig{Name: "worker-1", Records: 20, Linger: time.Millisecond, Logger: quiet})
	must(r.t, err)
	promoter, err := pipeline.NewPromoter(r.flow, pipeline.PromoterConfig{PollInterval: 20 * time.Millisecond, Logger: quiet})
	must(r.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	l := &load{cancel: cancel}
	l.wg.Go(func() {
		if err := pipeline.Run(ctx, worker, promoter); err != nil {
			r.t.Errorf("worker and promoter: %v", err)
		}
	})
	l.wg.Go(func() { l.produce(ctx, r) })
	r.t.Cleanup(l.stop) // before the servers
	return l
}

func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}

// loadDepth is how many records wait at most, or a few more.
const loadDepth = 100

// produce pushes records of each fate.
func (l *load) produce(ctx context.Context, r *rig) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for push := 0; ; push++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		whole := context.WithoutCancel(ctx) // each push is counted
		s, err := r.queue.Stats(whole)
		if err == nil && s.Ready < loadDepth {
			id := fmt.Sprint("load-", push)
			err = r.queue.Push(whole, []byte(id+"a ok"), []byte(id+"b ok"), []byte(id+"a ok"), []byte(id+"c refuse"), []byte(id+"d filter"), []byte(id+"e"))
			l.pushed, l.rows = l.pushed+6, l.rows+2
		}
		if err != nil {
			r.t.Errorf("producer: %v", err)
			return
		}
	}
}
