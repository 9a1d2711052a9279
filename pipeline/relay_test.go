package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// relayed is a rig whose table keeps the transaction of each row, and the relay of its rows to a
// second queue.
func relayed(t *testing.T, records int) (r *rig, next *queue.Queue, relay *pipeline.Relay) {
	t.Helper()
	r = newRig(t, rigOptions{})
	if _, err := r.pool.Exec(t.Context(), `ALTER TABLE items ADD tx xid8 NOT NULL DEFAULT pg_current_xact_id(), ADD no bigint GENERATED ALWAYS AS IDENTITY;
		CREATE INDEX ON items (tx, no)`); err != nil {
		t.Fatal(err)
	}
	next, err := queue.New(t.Context(), r.redis, servertest.Prefix(t), queue.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if relay, err = pipeline.NewRelay(next, "items", relayConfig(r, records)); err != nil {
		t.Fatal(err)
	}
	return r, next, relay
}

// lossyRelay loses the reply of some pushes, after the server has done them or before.
type lossyRelay struct {
	pipeline.RelayQueue
	calls int
}

func (q *lossyRelay) PushFrom(ctx context.Context, source, from, to string, payloads ...[]byte) error {
	q.calls++
	if q.calls%3 == 1 {
		return errLostReply
	}
	err := q.RelayQueue.PushFrom(ctx, source, from, to, payloads...)
	if q.calls%3 == 2 && err == nil {
		return errLostReply
	}
	return err
}

// Queue, table, queue: what is promoted arrives in the next queue, each row once, through lost
// replies, with two relays of one name, and while another transaction holds a lower key.
func TestRelay(t *testing.T) {
	t.Parallel()
	r, next, relay := relayed(t, 7)
	lossy, err := pipeline.NewRelay(&lossyRelay{RelayQueue: next}, "items", relayConfig(r, 7))
	if err != nil {
		t.Fatal(err)
	}
	early, err := r.pool.Begin(t.Context()) // has a lower key than what is promoted before its commit
	if err != nil {
		t.Fatal(err)
	}
	defer early.Rollback(context.Background()) //nolint:errcheck // it was committed
	if _, err := early.Exec(t.Context(), "INSERT INTO items (id, kind) VALUES ('early', 'keep')"); err != nil {
		t.Fatal(err)
	}
	records := numbered("a", 100, "keep")
	stop := r.start(pipeline.WorkerConfig{Records: 9}, pipeline.PromoterConfig{})
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	waits := []func(){background(t, func() error { return relay.Run(ctx) }), background(t, func() error { return lossy.Run(ctx) })}
	r.push(records[:50]...)
	r.settled()
	if err := early.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.push(records[50:]...)
	r.settled()
	eventually(t, time.Minute, func() error {
		s, err := next.Stats(ctx)
		if err == nil && s.Ready < 101 {
			err = fmt.Errorf("%d records, want 101", s.Ready)
		}
		return err
	})
	stop()
	cancel()
	for _, wait := range waits {
		wait()
	}
	b, err := next.Lease(t.Context(), queue.LeaseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range b.Payloads {
		got = append(got, string(p))
	}
	same(t, "relayed", append(records, "early keep"), got)
}

func relayConfig(r *rig, records int) pipeline.RelayConfig {
	return pipeline.RelayConfig{DB: r.pool, Start: "0/0", Logger: quiet, Records: records, PollInterval: 10 * time.Millisecond,
		SQL: `SELECT tx || '/' || no, id || ' ' || kind FROM items
			WHERE tx < pg_snapshot_xmin(pg_current_snapshot()) AND (tx, no) > (split_part($1, '/', 1)::xid8, split_part($1, '/', 2)::bigint)
			ORDER BY tx, no LIMIT $2`}
}

// A relay goes on where the last program stopped, and an error names what failed.
func TestRelayStep(t *testing.T) {
	t.Parallel()
	r, next, _ := relayed(t, 2)
	// One writer, so the key alone orders the rows. No transaction of another test delays them.
	byKey := relayConfig(r, 2)
	byKey.SQL, byKey.Start = "SELECT no::text, id FROM items WHERE no > $1::text::bigint ORDER BY no LIMIT $2", "0"
	relay, err := pipeline.NewRelay(next, "items", byKey)
	if err != nil {
		t.Fatal(err)
	}
	insert := func(n int) {
		t.Helper()
		for i := range n {
			if _, err := r.pool.Exec(t.Context(), "INSERT INTO items (id, kind) VALUES ($1, 'keep')", fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	insert(3)
	for _, want := range []int{2, 1, 0} {
		if n, err := relay.Step(t.Context()); n != want || err != nil {
			t.Errorf("got %d, %v, want %d", n, err, want)
		}
	}
	again, err := pipeline.NewRelay(next, "items", byKey)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := again.Step(t.Context()); n != 0 || err != nil {
		t.Errorf("another program: got %d, %v, want nothing", n, err)
	}
	bad := relayConfig(r, 2)
	bad.SQL = "SELECT nothing FROM nowhere WHERE $1 = '' LIMIT $2"
	if again, err = pipeline.NewRelay(next, "bad", bad); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Step(t.Context()); err == nil || !strings.Contains(err.Error(), "nowhere") || !strings.HasPrefix(err.Error(), "pipeline: relay bad: ") {
		t.Errorf("got %v, want the missing table", err)
	}
	for want, cfg := range map[string]pipeline.RelayConfig{
		"RelayConfig.DB is nil":           {SQL: "x"},
		"RelayConfig.SQL is empty":        {DB: r.pool},
		"RelayConfig.Records is 5001":     {DB: r.pool, SQL: "x", Records: 5001},
		"RelayConfig.PollInterval is 1ns": {DB: r.pool, SQL: "x", PollInterval: 1},
	} {
		if _, err := pipeline.NewRelay(next, "items", cfg); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
