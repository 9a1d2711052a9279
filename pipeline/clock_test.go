package pipeline_test

import (
	"testing"
	"time"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/pipeline"
)

// The clock of Redis is set back by a day, to before the floor of the pruned ledger. Fresh batches
// are not too old.
func TestClockOfRedisIsSetBackBehindTheFloor(t *testing.T) {
	t.Parallel()
	clock, c := redisxtest.NewClock(t, time.Now())
	r := newRig(t, rigOptions{redis: c})
	clock.Set(-24 * time.Hour)
	if _, err := r.table.Prune(t.Context(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	r.push(numbered("a", 10, "")...)
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	stop()
	if s, err := r.queue.Stats(t.Context()); err != nil || s.Acked != 10 || s.Balanced() != nil {
		t.Errorf("got %+v, %v, want 10 records acknowledged", s, err)
	}
}
