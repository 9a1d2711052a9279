package pipeline_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// Redis comes back with the state of a backup, and Postgres keeps its own. A batch that was sealed
// before the backup is in the ledger and is not promoted again. Records that were in the ready list
// are: the target of this test has no key. What was pushed later is in the table alone. Nothing
// stays in flight.
func TestRedisRestoredToAnOlderState(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{redis: servertest.Redis(t), lease: queue.LeaseConfig{Duration: 50 * time.Millisecond}})
	ctx := t.Context()
	sealed, ready, later := numbered("sealed", 3, "good"), numbered("ready", 3, "good"), numbered("later", 3, "good")
	r.push(sealed...)
	if _, err := r.queue.TryLease(ctx, queue.LeaseOptions{}); err != nil {
		t.Fatal(err)
	}
	r.push(ready...)
	restore := backup(t, r.redis, r.queue.Name())
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	r.push(later...)
	r.settled()
	stop()

	restore()
	stop = r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{ReconcileInterval: 100 * time.Millisecond})
	defer stop()
	eventually(t, time.Minute, func() error {
		st, err := r.queue.Stats(ctx)
		if err == nil && (st.Acked != int64(len(sealed)+len(ready)) || st.InFlight != 0 || st.Ready != 0) {
			err = fmt.Errorf("got %+v, want %d acked", st, len(sealed)+len(ready))
		}
		return err
	})
	if a, err := r.queue.Audit(ctx); err != nil || a.Balanced() != nil {
		t.Errorf("got %v, %v, want a sound queue", a.Differences, err)
	}
	rows, err := r.pool.Query(ctx, "SELECT id FROM items")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	twice := idsOf(ready)
	same(t, "promoted", append(append(append(idsOf(sealed), idsOf(later)...), twice...), twice...), ids)
}

// backup copies the keys of a name, and returns a function that brings them back, and removes all
// others.
func backup(t *testing.T, c rueidis.Client, name string) (restore func()) {
	t.Helper()
	ctx := t.Context()
	keys := func() []string {
		t.Helper()
		keys, err := c.Do(ctx, c.B().Keys().Pattern("{"+name+"}*").Build()).AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	values, lives := map[string]string{}, map[string]int64{}
	for _, key := range keys() {
		var err error
		if values[key], err = c.Do(ctx, c.B().Dump().Key(key).Build()).ToString(); err != nil {
			t.Fatal(err)
		}
		if lives[key], err = c.Do(ctx, c.B().Pttl().Key(key).Build()).AsInt64(); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		t.Helper()
		for _, key := range keys() {
			if err := c.Do(ctx, c.B().Del().Key(key).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
		for key, value := range values {
			if err := c.Do(ctx, c.B().Restore().Key(key).Ttl(max(0, lives[key])).SerializedValue(value).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
