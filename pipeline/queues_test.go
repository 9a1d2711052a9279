package pipeline_test

import (
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
)

// Several queues feed one table. Each promoter promotes the batches of all, and acknowledges those
// of its own queue at once, whichever promoted them: the next regular reconcile is an hour away.
func TestSeveralQueuesIntoOneTable(t *testing.T) {
	t.Parallel()
	one := newRig(t, rigOptions{})
	rigs := []*rig{one}
	for range 2 {
		rigs = append(rigs, newRig(t, rigOptions{redis: one.redis, pool: one.pool, name: servertest.Prefix(t)}))
	}
	for _, r := range rigs {
		stop := r.start(pipeline.WorkerConfig{Records: 5}, pipeline.PromoterConfig{ReconcileInterval: time.Hour})
		defer stop()
	}
	for i, r := range rigs {
		for range 4 {
			r.push(numbered(r.queue.Name(), 20, "keep")[i:]...) // copies after the first time
		}
	}
	for _, r := range rigs {
		r.settled()
	}
	var rows int
	if err := one.pool.QueryRow(t.Context(), "SELECT count(*) FROM items").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	if rows != 20+19+18 {
		t.Errorf("got %d rows, want %d", rows, 20+19+18)
	}
}
