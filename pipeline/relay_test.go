package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

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

// A relay prepares no statement: a pooler that does not follow those would run it on a connection
// of the server that does not have it.
func TestARelayPreparesNoStatement(t *testing.T) {
	t.Parallel()
	r, next, _ := relayed(t, 2)
	cfg := r.pool.Config()
	cfg.MaxConns = 1
	one, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	to := relayConfig(r, 2)
	to.DB = one
	relay, err := pipeline.NewRelay(next, "items", to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := relay.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	var prepared int
	if err := one.QueryRow(t.Context(), "SELECT count(*) FROM pg_prepared_statements", pgx.QueryExecModeExec).Scan(&prepared); err != nil || prepared > 0 {
		t.Errorf("got %d prepared statements, %v; want none", prepared, err)
	}
}

// A relay goes on where the last program stopped, and an error names what failed.
func TestRelayStep(t *testing.T) {
	t.Parallel()
	r, next, _ := relayed(t, 2)
	// One writer, so the key alone orders the rows. No transaction of another test delays them.
	byKey := relayConfig(r, 2)
	byKey.SQL, byKey.Start = "SELECT i.no::text, i.id FROM items i WHERE i.no > $1::text::bigint ORDER BY i.no LIMIT $2", "0"
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

// slowRelay is a queue on a network that is too slow for pushes of more than some bytes.
type slowRelay struct {
	pipeline.RelayQueue

	most, greatest int
}

func (q *slowRelay) PushFrom(ctx context.Context, source, from, to string, payloads ...[]byte) error {
	bytes := 0
	for _, p := range payloads {
		bytes += len(p)
	}
	q.greatest = max(q.greatest, bytes)
	if bytes > q.most {
		return os.ErrDeadlineExceeded
	}
	return q.RelayQueue.PushFrom(ctx, source, from, to, payloads...)
}

// A page of more bytes than the network takes before the client gives up is pushed in parts.
func TestRelayOverASlowNetwork(t *testing.T) {
	t.Parallel()
	r, next, _ := relayed(t, 1000)
	slow := &slowRelay{RelayQueue: next, most: 1500 << 10}
	cfg := relayConfig(r, 1000)
	cfg.SQL, cfg.Start = "SELECT i.no::text, repeat('x', 65536) FROM generate_series($1::text::bigint + 1, 128) i(no) ORDER BY i.no LIMIT $2", "0"
	relay, err := pipeline.NewRelay(slow, "items", cfg)
	if err != nil {
		t.Fatal(err)
	}
	failures, steps := 0, 0
	for sum := 0; sum < 128; steps++ {
		n, err := relay.Step(t.Context())
		if sum += n; err == nil && n > 0 {
			continue
		}
		if failures++; !errors.Is(err, os.ErrDeadlineExceeded) || failures > 2 {
			t.Fatalf("got %d of 128 records and %v", sum, err)
		}
	}
	if s, err := next.Stats(t.Context()); err != nil || s.Ready != 128 || steps > 20 {
		t.Errorf("got %d records after %d steps and %v, want 128 after a few", s.Ready, steps, err)
	}
}

// A page that is pushed in parts keeps the records of one position together: the next page would
// pass over those that are left.
func TestRelayOfLargeTies(t *testing.T) {
	t.Parallel()
	r, next, _ := relayed(t, 50)
	cfg := relayConfig(r, 50)
	cfg.SQL, cfg.Start = `SELECT (i.no / 7)::text, repeat('x', 100000) || i.no FROM generate_series(0, 139) i(no)
		WHERE i.no / 7 > $1::text::bigint ORDER BY i.no / 7 FETCH FIRST $2 ROWS WITH TIES`, "-1"
	relay, err := pipeline.NewRelay(next, "items", cfg)
	if err != nil {
		t.Fatal(err)
	}
	sum, steps := 0, 0
	for n := 1; n > 0; steps++ {
		if n, err = relay.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	if s, err := next.Stats(t.Context()); err != nil || sum != 140 || s.Ready != 140 || steps < 5 {
		t.Errorf("got %d records, %d in the queue after %d steps, %v, want 140 after some", sum, s.Ready, steps, err)
	}
}

// A query whose ORDER BY contradicts its condition would pass over records. The usual cause is that
// ORDER BY id means the output column id::text.
func TestRelayNoticesAWrongOrder(t *testing.T) {
	t.Parallel()
	r, next, _ := relayed(t, 2)
	if _, err := r.pool.Exec(t.Context(), "INSERT INTO items (id, kind) SELECT 'k' || n, 'keep' FROM generate_series(1, 120) n"); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		sql, start, want string
		records          int
	}{
		"text of a number":        {"SELECT no::text, id FROM items WHERE no > $1::text::bigint ORDER BY no LIMIT $2", "0", "must be in ascending order", 20},
		"payload named as a key":  {"SELECT tx || '/' || no, no::text FROM items WHERE (tx, no) > (split_part($1, '/', 1)::xid8, split_part($1, '/', 2)::bigint) ORDER BY tx, no LIMIT $2", "0/0", "must be in ascending order", 20},
		"negative numbers":        {"SELECT (no - 61)::text AS at, id FROM items WHERE no - 61 > $1::text::bigint ORDER BY at LIMIT $2", "-100", "must be in ascending order", 20},
		"descending":              {"SELECT no::text, id FROM items i WHERE no > $1::text::bigint ORDER BY i.no DESC LIMIT $2", "0", "must be in ascending order", 20},
		"the last record again":   {"SELECT no::text, id FROM items i WHERE no >= $1::text::bigint ORDER BY i.no LIMIT $2", "1", "must return only those after it", 20},
		"numbers":                 {"SELECT no::text, id FROM items i WHERE no > $1::text::bigint ORDER BY i.no LIMIT $2", "0", "", 50},
		"negative numbers, right": {"SELECT (no - 61)::text, id FROM items i WHERE no - 61 > $1::text::bigint ORDER BY no - 61 LIMIT $2", "-100", "", 50},
		"three of each position":  {"SELECT (no / 3)::text, id FROM items i WHERE i.no / 3 > $1::text::bigint ORDER BY i.no / 3 FETCH FIRST $2 ROWS WITH TIES", "-1", "", 50},
		"text, sorted as text":    {`SELECT id, id FROM items WHERE id > $1 COLLATE "C" ORDER BY id COLLATE "C" LIMIT $2`, "", "", 50},
	}
	for name, c := range cases {
		for _, records := range []int{c.records, 1, 3} {
			relaysInOrder(t, r, next, fmt.Sprintf("%s, pages of %d", name, records), c.want, pipeline.RelayConfig{
				DB: r.pool, SQL: c.sql, Start: c.start, Records: records, Logger: quiet,
			})
		}
	}
}

// relaysInOrder relays all 120 records. If an error is expected, it comes before a record is passed
// over: only the first one may be pushed, in a page of its own.
func relaysInOrder(t *testing.T, r *rig, next *queue.Queue, name, want string, cfg pipeline.RelayConfig) {
	t.Helper()
	relay, err := pipeline.NewRelay(next, name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for total := 0; ; {
		n, err := relay.Step(t.Context())
		total += n
		switch {
		case want != "" && err == nil && total <= 1 && n == cfg.Records:
		case want != "":
			if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), want) || n != 0 {
				t.Errorf("%s: got %d, %v, want %q", name, n, err, want)
			}
			return
		case err != nil:
			t.Errorf("%s: %v", name, err)
			return
		case n == 0:
			if total != 120 {
				t.Errorf("%s: relayed %d records, want 120", name, total)
			}
			return
		}
	}
}

// A restored dump has the transaction ids of another server. With the two numbers that the comment
// of RelayConfig.SQL gives to the rows, each is relayed once, and so are new ones.
func TestRelayAfterARestore(t *testing.T) {
	t.Parallel()
	r, next, _ := relayed(t, 10)
	exec := func(sql string) {
		t.Helper()
		if _, err := r.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("INSERT INTO items (id, kind, tx) SELECT 'old' || n, 'keep', (9000000000000 + n / 3)::text::xid8 FROM generate_series(1, 9) n")
	const position = "('9000000000001', 5)" // old5 was the last record that the old relay pushed
	exec("UPDATE items SET tx = CASE WHEN (tx, no) <= " + position + " THEN '1' ELSE '2' END::xid8")
	exec("INSERT INTO items (id, kind) VALUES ('new', 'keep')")
	cfg := relayConfig(r, 10)
	cfg.Start = "1/9223372036854775807"
	relay, err := pipeline.NewRelay(next, "after the restore", cfg)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	eventually(t, time.Minute, func() error { // a transaction of another test may hold the newest row back
		if _, err := relay.Step(t.Context()); err != nil {
			return err
		}
		b, err := next.TryLease(t.Context(), queue.LeaseOptions{})
		if err != nil {
			return err
		}
		for _, p := range b.Payloads {
			got = append(got, string(p))
		}
		if len(got) < 5 {
			return fmt.Errorf("%d records, want 5", len(got))
		}
		return nil
	})
	same(t, "relayed", []string{"old6 keep", "old7 keep", "old8 keep", "old9 keep", "new keep"}, got)
}

// Payloads of the type bytea arrive as they are, whatever form the database prints them in.
func TestRelayOfBytea(t *testing.T) {
	t.Parallel()
	r, _, _ := relayed(t, 300)
	for _, output := range []string{"hex", "escape"} {
		next, err := queue.New(t.Context(), r.redis, servertest.Prefix(t), queue.Config{})
		if err != nil {
			t.Fatal(err)
		}
		pool := r.pool.Config()
		pool.ConnConfig.RuntimeParams["bytea_output"] = output
		db, err := pgxpool.NewWithConfig(t.Context(), pool)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		cfg := relayConfig(r, 300)
		cfg.DB, cfg.Start = db, "0"
		cfg.SQL = `SELECT i.no::text, CASE i.no WHEN 257 THEN decode('', 'hex') WHEN 258 THEN decode('5c7834315c313334', 'hex') ELSE decode(repeat(lpad(to_hex(i.no - 1), 2, '0') || '5c', 3), 'hex') END
			FROM generate_series($1::text::bigint + 1, 258) i(no) ORDER BY i.no LIMIT $2`
		relay, err := pipeline.NewRelay(next, "items", cfg)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := relay.Step(t.Context()); n != 258 || err != nil {
			t.Fatalf("%s: relayed %d, %v, want 258", output, n, err)
		}
		b, err := next.TryLease(t.Context(), queue.LeaseOptions{Records: 300})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for i := range 256 {
			want = append(want, strings.Repeat(string([]byte{byte(i), '\\'}), 3))
		}
		want = append(want, "", `\x41\134`)
		for i, p := range b.Payloads {
			if string(p) != want[i] {
				t.Fatalf("%s: payload %d is %q, want %q", output, i, p, want[i])
			}
		}
	}
}
