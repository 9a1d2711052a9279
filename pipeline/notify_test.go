package pipeline_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/headrace/headrace/pipeline"
)

// Notify is called at the start and after each promotion, when the rows can be read. Refresh is not
// needed for it.
func TestNotifyFollowsEachPromotion(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	var notices, rows atomic.Int64
	started := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	waitP := r.startPromoter(ctx, pipeline.PromoterConfig{Notify: func() {
		var n int64
		if err := r.pool.QueryRow(context.WithoutCancel(ctx), "SELECT count(*) FROM items").Scan(&n); err != nil {
			t.Error(err)
		}
		rows.Store(n)
		if notices.Add(1) == 1 {
			close(started)
		}
	}})
	await(t, started, "the notice at the start")
	if n := rows.Load(); n != 0 {
		t.Errorf("the notice at the start has seen %d rows, want 0", n)
	}
	r.push(numbered("a", 500, "good")...)
	waitW := r.startWorker(ctx, pipeline.WorkerConfig{Records: 100})
	r.settled()
	cancel()
	waitW()
	waitP()
	if n := rows.Load(); n != 500 {
		t.Errorf("the last notice has seen %d rows, want 500", n)
	}
	if n := notices.Load(); n < 2 {
		t.Errorf("%d notices, want one at the start and one for each promotion", n)
	}
}
