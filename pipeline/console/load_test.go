package console_test

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/console"
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

// TestEachActionWhileALoadRuns acts on a pipeline that works. In the end every record is accounted
// for.
func TestEachActionWhileALoadRuns(t *testing.T) {
	t.Parallel()
	r := actingRig(t, nil)
	r.bury("d0 ok", "d1 ok", "d2 ok")
	letters := read[console.DeadPage](r, "dead.json").Letters
	r.push("bad0", "bad1")
	r.run()
	rejects := read[console.RejectsPage](r, "rejects.json").Rejects
	l := r.startLoad()
	moves := func(what string) {
		t.Helper()
		before := r.stats().Acked
		eventually(t, func() error {
			if s := r.stats(); s.Acked <= before {
				return fmt.Errorf("%s: nothing is acknowledged: %+v", what, s)
			}
			return nil
		})
	}
	moves("the load")
	r.act(url.Values{"action": {"pause"}})
	if !r.stats().Paused {
		t.Error("the queue is not paused")
	}
	eventually(t, func() error { // the producer fills the queue up, and no worker leases
		if s := r.stats(); s.Ready < loadDepth || s.LeasedBatches > 0 {
			return fmt.Errorf("got %+v, want a full queue and no leases", s)
		}
		return nil
	})
	r.act(url.Values{"action": {"resume"}})
	for _, c := range []struct {
		form url.Values
		n    int64
	}{
		{url.Values{"action": {"requeue"}, "id": {letters[0].ID}}, 1},
		{url.Values{"action": {"discard"}, "id": {letters[1].ID}}, 1},
		{url.Values{"action": {"replay"}, "id": {itoa(rejects[0].ID)}, "edited": {"1"}, "payload": {"corrected ok"}}, 1},
		{url.Values{"action": {"resolve"}, "id": {itoa(rejects[1].ID)}}, 1},
		{url.Values{"action": {"refresh-view"}}, 1},
		{url.Values{"action": {"refresh-lookup"}, "name": {r.pipe.Lookups[0].Name()}}, 1},
	} {
		if p, d := r.plan(c.form), r.act(c.form); p.Plan.Records != c.n || d.Records != c.n {
			t.Errorf("%v: got the plan %d and did %d, want %d", c.form, p.Plan.Records, d.Records, c.n)
		}
	}
	for _, kind := range []string{"promote", "reconcile", "audit"} { // about what the load has just left
		r.plan(url.Values{"action": {kind}})
		r.act(url.Values{"action": {kind}})
	}
	moves("after all actions")
	l.stop()
	r.run()

	var rows int
	must(t, r.pool.QueryRow(t.Context(), "SELECT count(*) FROM items").Scan(&rows))
	if want := l.rows + 2; rows != want {
		t.Errorf("got %d rows, want %d: those of the load, a requeued letter and a corrected reject", rows, want)
	}
	s := r.stats()
	if want := int64(l.pushed) + 4; s.Acked != want || s.Dead != 1 || s.Discarded != 1 || s.Balanced() != nil {
		t.Errorf("got %+v (%v), want %d acknowledged, one dead and one discarded", s, s.Balanced(), want)
	}
	eventually(t, func() error {
		if o := read[console.Overview](r, "overview.json"); o.Verdict.State != "ok" || o.Note != "" {
			return fmt.Errorf("got %+v with the note %q, want that nothing is lost, with all stores compared", o.Verdict, o.Note)
		}
		return nil
	})
}
