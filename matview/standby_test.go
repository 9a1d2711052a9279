package matview_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
)

// While a synchronous standby is away, commits wait for it without end. Those of this package do
// not: a view and a roll-up follow from the tables.
func TestNoStandbyIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := servertest.OwnPostgres(t)
	pool, err := pgxpool.New(t.Context(), s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	cfg := pool.Config()
	cfg.ConnConfig.RuntimeParams["synchronous_commit"] = "local"
	admin, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	exec(t, admin, `CREATE TABLE orders (at timestamptz, product text, amount numeric(12,2))`, `INSERT INTO orders VALUES (now(), 'ink', 1)`,
		`ALTER SYSTEM SET synchronous_standby_names = 'away'`, `SELECT pg_reload_conf()`)
	for one[string](t, pool, `SHOW synchronous_standby_names`) != "away" { // a session reloads between two statements
	}
	rollup := full(false)
	var r *matview.Refresher
	for _, step := range []struct {
		what string
		call func(ctx context.Context) error
	}{
		{"New", func(ctx context.Context) (err error) {
			r, err = matview.New(ctx, pool, "dashboard", matview.Config{Views: []matview.View{{Name: "v", SQL: "SELECT count(*) AS n FROM orders"}}})
			return err
		}},
		{"Refresh", func(ctx context.Context) error { _, err := r.Refresh(ctx); return err }},
		{"Create", func(ctx context.Context) error { return rollup.Create(ctx, pool) }},
		{"Rebuild", func(ctx context.Context) error { _, err := rollup.Rebuild(ctx, pool); return err }},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- step.call(ctx) }()
		for finished := false; !finished; {
			select {
			case err := <-done:
				if err != nil {
					t.Fatalf("%s: %v", step.what, err)
				}
				finished = true
				continue
			default:
			}
			if one[bool](t, admin, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')`) {
				exec(t, admin, `ALTER SYSTEM RESET synchronous_standby_names`, `SELECT pg_reload_conf()`)
				cancel()
				t.Fatalf("%s waits for the standby: %v", step.what, <-done)
			}
		}
		cancel()
	}
	same(t, pool, rollup)
	want(t, "n in the view", one[int](t, pool, `SELECT n::int FROM v`), 1)
}
