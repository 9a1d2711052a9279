package pipeline_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/headrace/headrace/pipeline"
)

// Two promoters share the lanes of a table. Each record ends once, as with one lane.
func TestPromotersShareLanes(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{lanes: 2})
	good := numbered("a", 1000, "good")
	r.push(good...)
	r.push(good[:50]...)
	r.push("x refuse", "y rule")
	stop := r.start(pipeline.WorkerConfig{Records: 20}, pipeline.PromoterConfig{})
	defer stop()
	second, cancel := context.WithCancel(context.Background())
	defer cancel()
	wait := r.startPromoter(second, pipeline.PromoterConfig{})
	r.settled()
	cancel()
	wait()
	stop()
	r.check(want{rows: idsOf(good), rejects: []string{"x", "y"}})
}

// A lane that cannot be promoted, because a backup holds its tables, does not hold up the other
// one: what is staged there is promoted and acknowledged meanwhile.
func TestABlockedLaneHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{lanes: 2})
	records := numbered("a", 200, "good")
	r.push(records...)
	working, cancel := context.WithCancel(context.Background())
	wait := r.startWorker(working, pipeline.WorkerConfig{Records: 5})
	eventually(t, time.Minute, r.allHanded)
	cancel()
	wait()
	backup, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer backup.Rollback(context.Background()) //nolint:errcheck // ends the lock
	if _, err := backup.Exec(t.Context(), "LOCK TABLE items_staging_a, items_staging_b IN ACCESS SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	var blocked int64
	if err := backup.QueryRow(t.Context(), "SELECT coalesce(sum(records), 0) FROM (TABLE items_registry_a UNION ALL TABLE items_registry_b) r").Scan(&blocked); err != nil {
		t.Fatal(err)
	}
	if blocked == 0 || blocked == int64(len(records)) {
		t.Fatalf("%d of %d records are in the first lane, want some", blocked, len(records))
	}
	promoting, stop := context.WithCancel(context.Background())
	defer stop()
	ended := r.startPromoter(promoting, pipeline.PromoterConfig{})
	eventually(t, time.Minute, func() error {
		st, err := r.queue.Stats(t.Context())
		if err == nil && st.Acked != int64(len(records))-blocked {
			err = fmt.Errorf("%d records acknowledged, want the %d of the second lane", st.Acked, int64(len(records))-blocked)
		}
		return err
	})
	if err := backup.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.settled()
	stop()
	ended()
	r.check(want{rows: idsOf(records)})
}
