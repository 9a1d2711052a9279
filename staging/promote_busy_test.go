package staging_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A backup holds ACCESS SHARE on every table until it ends. Promotions report who holds the lock,
// workers, books and fates go on, a new program starts, and afterwards everything is promoted.
func TestABackupHoldsItsLocks(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	cfg := staging.Config[item]{Create: true, Key: []string{"id"}, LockTimeout: 200 * time.Millisecond, StageTimeout: 100 * time.Millisecond}
	tab := newTable(t, pool, "items", cfg)
	first := load(items("a", 1)...)
	stage(t, tab, first, staging.OutcomeStaged)
	backup, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	defer backup.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // rolled back below
	for _, x := range []string{"", "_ledger", "_rejects", "_control", "_epoch", "_staging_a", "_staging_b", "_registry_a", "_registry_b", "_refused_a", "_refused_b"} {
		if _, err := backup.Exec(t.Context(), "LOCK TABLE items"+x+" IN ACCESS SHARE MODE"); err != nil {
			t.Fatal(err)
		}
	}
	pid := backup.Conn().PgConn().PID()
	for i := range 3 {
		_, err := tab.Promote(t.Context(), staging.PromoteOptions{})
		if !errors.Is(err, staging.ErrBusy) || !strings.Contains(err.Error(), fmt.Sprintf("process %d of role", pid)) {
			t.Errorf("promotion %d: got %v, want ErrBusy that names process %d", i, err, pid)
		}
		stage(t, tab, load(items(fmt.Sprint("b", i), 2)...), staging.OutcomeStaged)
		if f := fates(t, tab, first.Batch.ID); f[0] != staging.FateStaged {
			t.Errorf("the first batch is %v, want staged", f[0])
		}
		balanced(t, tab)
	}
	newTable(t, pool, "items", cfg)
	if err := backup.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for rows := 0; rows < 7; {
		rows += promote(t, tab).Rows
	}
	count(t, pool, 7)
	balanced(t, tab)
}

// A worker of another role holds its lock: the promoter can neither see nor end it, and names the
// GRANT.
func TestAWorkerOfAnotherRoleHoldsItsLock(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	cfg := staging.Config[item]{Create: true, Key: []string{"id"}, LockTimeout: 200 * time.Millisecond, StageTimeout: 100 * time.Millisecond}
	tab := newTable(t, pool, "items", cfg)
	stage(t, tab, load(items("a", 1)...), staging.OutcomeStaged)
	user, name := login(t, pool)
	cfg.Role = staging.RolePromoter
	grants, err := staging.Grants(t.Context(), pool, "items", cfg, name)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, grants)
	promoter := newTable(t, user, "items", cfg)
	worker, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer worker.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // rolled back below
	if _, err := worker.Exec(t.Context(), "LOCK TABLE items_registry_a, items_registry_b IN ROW EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	_, err = promoter.Promote(t.Context(), staging.PromoteOptions{})
	want := "GRANT pg_read_all_stats, pg_signal_backend TO " + pgx.Identifier{name}.Sanitize()
	if !errors.Is(err, staging.ErrBusy) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want ErrBusy with %s", err, want)
	}
	if err := worker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := promote(t, promoter); p.Rows != 1 {
		t.Errorf("promoted %d rows, want 1", p.Rows)
	}
}

// While a promotion waits for a lock that a backup holds, readers and workers go on: they do not
// queue for the lock behind it.
func TestReadersPassAPromotionThatWaits(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"items_registry_a", "items_staging_a", "items_refused_a", "items"} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			cfg := staging.Config[item]{Create: true, Key: []string{"id"}, LockTimeout: time.Hour}
			tab, other := newTable(t, pool, "items", cfg), newTable(t, pool, "items", staging.Config[item]{Create: true, Key: []string{"id"}})
			l := load(items("a", 1)...)
			stage(t, tab, l, staging.OutcomeStaged)
			backup, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer backup.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // rolled back below
			mode := map[bool]string{true: "SHARE", false: "ACCESS SHARE"}[table == "items"]
			if _, err := backup.Exec(t.Context(), "LOCK TABLE "+table+" IN "+mode+" MODE"); err != nil {
				t.Fatal(err)
			}
			slices := make(chan struct{}, 1000)
			tab.SetHook(signalAt("between slices", slices))
			promoted := promoting(t, tab)
			untilWaiting(t, pool)
			const rounds = 3
			for i := range rounds {
				awaitSlice(t, slices, promoted) // it waits again soon
				if f := fates(t, other, l.Batch.ID); f[0] != staging.FateStaged {
					t.Errorf("the batch is %v, want staged", f[0])
				}
				balanced(t, other)
				s, err := other.Stats(t.Context())
				if err != nil || s.Promoting || s.Batches != int64(1+i) {
					t.Errorf("stats %+v, %v, want %d batches and no promotion", s, err, 1+i)
				}
				stage(t, other, load(items(fmt.Sprint("b", i), 1)...), staging.OutcomeStaged)
			}
			select {
			case r := <-promoted:
				t.Fatalf("the promotion has ended: %+v, %v", r.v, r.err)
			default:
			}
			if err := backup.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			(<-promoted).must(t)
			for p := promote(t, other); len(p.Batches) > 0; p = promote(t, other) {
			}
			count(t, pool, 1+rounds)
			balanced(t, tab)
		})
	}
}

// signalAt is a hook that signals each time that a point is reached.
func signalAt(point string, signals chan<- struct{}) func(string) error {
	return func(p string) error {
		if p == point {
			signals <- struct{}{}
		}
		return nil
	}
}

// awaitSlice returns when a promotion has released its locks between two slices. A promotion that
// waits for its locks in one piece fails the test here, and so does one that has ended.
func awaitSlice(t *testing.T, slices <-chan struct{}, promoted <-chan result[staging.PromoteResult]) {
	t.Helper()
	select {
	case <-slices:
	case r := <-promoted:
		t.Fatalf("the promotion has ended: %+v, %v, want one that waits in slices", r.v, r.err)
	case <-time.After(30 * time.Second):
		t.Fatal("the promotion has kept its place in the queue of the lock for 30 s, want a pause after each slice of 100 ms")
	}
}

// session is a pool that logs in as a role of its own, as programs do. SET ROLE would leave the
// session to the superuser.
func session(t *testing.T, pool *pgxpool.Pool, role staging.Role, cfg staging.Config[item]) (*pgxpool.Pool, string) {
	t.Helper()
	_, name := login(t, pool)
	exec(t, pool, "ALTER ROLE "+name+" LOGIN PASSWORD 'secret'")
	cfg.Role = role
	exec(t, pool, must(staging.Grants(t.Context(), pool, "items", cfg, name)))
	c := pool.Config()
	c.ConnConfig.User, c.ConnConfig.Password = name, "secret"
	p, err := pgxpool.NewWithConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, name
}

// A worker of another role is stalled in its COPY. Without privileges the promoter cannot see
// that, and names the worker's process and role and the GRANT that helps. With one of the two it
// still cannot end it. With both it does.
func TestAWorkerOfAnotherRoleStandsStill(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	cfg := staging.Config[item]{Create: true, Key: []string{"id"}, LockTimeout: 200 * time.Millisecond, StageTimeout: 100 * time.Millisecond}
	stage(t, newTable(t, pool, "items", cfg), load(items("a", 1)...), staging.OutcomeStaged)
	asWorker, workerName := session(t, pool, staging.RoleWorker, cfg)
	asPromoter, promoterName := session(t, pool, staging.RolePromoter, cfg)
	cfg.Role = staging.RolePromoter
	promoter := newTable(t, asPromoter, "items", cfg)

	worker, err := asWorker.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer worker.Release()
	if _, err := worker.Exec(t.Context(), "BEGIN; LOCK TABLE items_registry_a, items_staging_a IN ROW EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	still, halfARow := io.Pipe()
	copied := background(func() (int, error) {
		_, err := worker.Conn().PgConn().CopyFrom(t.Context(), still, "COPY items_staging_a (id, hr_record) FROM STDIN")
		return 0, err
	})
	if _, err := halfARow.Write([]byte("half a r")); err != nil {
		t.Fatal(err)
	}
	untilTrue(t, pool, fmt.Sprintf("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %d AND wait_event_type = 'Client' AND query LIKE 'COPY%%')", worker.Conn().PgConn().PID()))
	for _, grant := range []string{"", "GRANT pg_read_all_stats TO " + promoterName} {
		exec(t, pool, grant)
		_, err := promoter.Promote(t.Context(), staging.PromoteOptions{})
		if !errors.Is(err, staging.ErrBusy) {
			t.Fatalf("with %q: got %v, want ErrBusy", grant, err)
		}
		for _, want := range []string{fmt.Sprintf("process %d of role %q", worker.Conn().PgConn().PID(), workerName), fmt.Sprintf("GRANT pg_read_all_stats, pg_signal_backend TO %q", promoterName)} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("with %q: the error lacks %s: %v", grant, want, err)
			}
		}
	}
	exec(t, pool, "GRANT pg_signal_backend TO "+promoterName)
	if p := promote(t, promoter); p.Rows != 1 {
		t.Errorf("promoted %d rows, want 1", p.Rows)
	}
	if err := halfARow.Close(); err != nil {
		t.Error(err)
	}
	if r := <-copied; r.err == nil {
		t.Error("the worker's COPY ended well")
	}
}

// A partition that no row goes to may be locked for long, by VACUUM FULL, say. Neither a promotion
// nor New waits for it.
func TestAPromotionWaitsForNoOtherPartition(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	for target, cfg := range map[string]staging.Config[judged]{
		"unkeyed":  {},
		"keyed":    {Key: []string{"id"}, Rules: []staging.Rule{{Code: "none", Where: "n = 9"}}},
		"replaced": {Key: []string{"id"}, Conflict: staging.ConflictReplace, ReplaceIf: "EXCLUDED.n > old.n"},
	} {
		cfg.LockTimeout = 100 * time.Millisecond
		exec(t, pool, fmt.Sprintf(`CREATE TABLE %[1]s (id bigint PRIMARY KEY, v text CHECK (v <> 'no'), n bigint) PARTITION BY RANGE (id);
			CREATE TABLE %[1]s_low PARTITION OF %[1]s FOR VALUES FROM (0) TO (10); CREATE TABLE %[1]s_high PARTITION OF %[1]s FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
			CREATE TABLE %[1]s_leaf PARTITION OF %[1]s_high DEFAULT`, target))
		tab := newTable(t, pool, target, cfg)
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // nothing to undo
		if _, err := tx.Exec(t.Context(), fmt.Sprintf("LOCK TABLE ONLY %[1]s_high, %[1]s_leaf IN ACCESS EXCLUSIVE MODE", target)); err != nil {
			t.Fatal(err)
		}
		newTable(t, pool, target, cfg)
		stage(t, tab, load(row(1, "", 1), row(2, "no", 1), row(3, "", 1)), staging.OutcomeStaged)
		p, err := tab.Promote(t.Context(), staging.PromoteOptions{})
		if err != nil || p.Rows != 2 || p.RejectedByRule != 1 {
			t.Errorf("%s: promoted %d rows, %d rejected, %v, want 2 and 1", target, p.Rows, p.RejectedByRule, err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// Where the server lacks memory, locks or room on the disk, a smaller promotion may pass. The error
// has Postgres' hint.
func TestALackOfLocksOrRoomHalvesThePromotion(t *testing.T) {
	t.Parallel()
	for code, hint := range map[string]string{"53200": "increase max_locks_per_transaction", "53100": "Check free disk space."} {
		pool := servertest.Postgres(t)
		tab := itemTable(t, pool)
		for i := range 8 {
			stage(t, tab, load(items(fmt.Sprint("b", i), 10)...), staging.OutcomeStaged)
		}
		full := &pgconn.PgError{Severity: "ERROR", Code: code, Message: "out of something", Hint: hint}
		tab.SetHook(func(point string) error {
			if point == "after insert" {
				return full
			}
			return nil
		})
		for range 2 {
			if _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); !errors.Is(err, full) || !strings.Contains(err.Error(), hint) {
				t.Errorf("%s: got %v, want the error with its hint", code, err)
			}
		}
		tab.SetHook(nil)
		if p, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err != nil || p.Rows != 20 || !p.More {
			t.Errorf("%s: promoted %d rows, more %v, %v, want 20 of 80 and more", code, p.Rows, p.More, err)
		}
	}
}
