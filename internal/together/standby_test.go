package together_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/staging"
)

// At the address of a standby, whatever opens tables or views names the standby. Await waits until
// it is promoted.
func TestStandby(t *testing.T) {
	t.Parallel()
	s := servertest.OwnPostgres(t, "wal_level=replica")
	pool := s.Pool(t)
	type row struct {
		ID int64 `db:"id"`
	}
	const n = "orders"
	views := matview.Config{Views: []matview.View{{Name: "v", SQL: "SELECT id FROM orders", UniqueIndex: []string{"id"}}}}
	rollup := matview.Rollup{
		Table: "r", From: n, GroupBy: []matview.Column{{Name: "id", Type: "bigint"}},
		Measures: []matview.Measure{{Name: "n", Aggregate: matview.AggregateCount}},
	}
	must(t, pool, "CREATE TABLE orders (id bigint PRIMARY KEY)")
	// What a running program holds when its primary has become a standby. With one connection, an
	// error that asks the server more would wait for ever.
	few, err := pgxpool.New(t.Context(), s.URL+"&pool_max_conns=1")
	if err != nil {
		t.Fatal(err)
	}
	defer few.Close()
	target, err := staging.New(t.Context(), few, n, staging.Config[row]{Key: []string{"id"}, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	refresher, err := matview.New(t.Context(), few, n, views)
	if err != nil {
		t.Fatal(err)
	}
	load := staging.Load[row]{Batch: staging.Batch{ID: staging.NewBatchID(), Records: 1}, Rows: []row{{1}}}
	open := func(ctx context.Context) error {
		_, err := staging.New(ctx, pool, n, staging.Config[row]{Key: []string{"id"}})
		return err
	}
	if err := errors.Join(open(t.Context()), rollup.Create(t.Context(), pool)); err != nil {
		t.Fatal(err)
	}
	// A server that finds this file starts as a standby.
	must(t, pool, `DO $$ BEGIN EXECUTE format('COPY (SELECT) TO %L', current_setting('data_directory') || '/standby.signal'); END $$; CHECKPOINT`)
	if err := errors.Join(s.Kill(), s.Start()); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the standby takes connections", func() bool { return pool.Ping(t.Context()) == nil })
	servertest.Eventually(t, "the connection that the kill has closed is replaced", func() bool { return few.Ping(t.Context()) == nil })
	one, err := pgxpool.New(t.Context(), s.URL+"&pool_max_conns=1")
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	for what, f := range map[string]func(ctx context.Context, pool *pgxpool.Pool) error{
		"staging: New": func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := staging.New(ctx, pool, n, staging.Config[row]{})
			return err
		},
		"staging: NoCreate": func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := staging.New(ctx, pool, n, staging.Config[row]{NoCreate: true})
			return err
		},
		"staging: OpenLedger": func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := staging.OpenLedger(ctx, pool, n)
			return err
		},
		"staging: NewFinder": func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := staging.NewFinder(ctx, pool, n, "")
			return err
		},
		"matview: New": func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := matview.New(ctx, pool, n, views)
			return err
		},
		"matview: Rollup.Create":  func(ctx context.Context, pool *pgxpool.Pool) error { return rollup.Create(ctx, pool) },
		"matview: Rollup.Rebuild": func(ctx context.Context, pool *pgxpool.Pool) error { _, err := rollup.Rebuild(ctx, pool); return err },
		"matview: Rollup.Verify":  func(ctx context.Context, pool *pgxpool.Pool) error { return rollup.Verify(ctx, pool) },
		"staging: staging batch":  func(ctx context.Context, _ *pgxpool.Pool) error { _, err := target.Stage(ctx, load); return err },
		"staging: promoting": func(ctx context.Context, _ *pgxpool.Pool) error {
			_, err := target.Promote(ctx, staging.PromoteOptions{})
			return err
		},
		"matview: refresh": func(ctx context.Context, _ *pgxpool.Pool) error { _, err := refresher.Refresh(ctx); return err },
		"staging: DiscardStaged": func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := staging.DiscardStaged(ctx, pool, n)
			return err
		},
		"staging: SQL of a target": func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := staging.SQL(ctx, pool, n, staging.Config[row]{})
			return err
		},
	} {
		err := f(t.Context(), one)
		name, _, _ := strings.Cut(what, " ")
		if !errors.Is(err, pgschema.ErrStandby) || !strings.HasPrefix(err.Error(), name) || !strings.Contains(err.Error(), "the server is a standby: it accepts no writes (") ||
			!strings.HasSuffix(err.Error(), "connect to the primary, for example with target_session_attrs=read-write") {
			t.Errorf("%s: got %v, want the package and the standby", what, err)
		}
	}

	tried := make(chan struct{})
	var once sync.Once
	opened := make(chan error, 1)
	go func() {
		opened <- pipeline.Await(t.Context(), slog.New(slog.DiscardHandler), func(ctx context.Context) error {
			err := open(ctx)
			once.Do(func() { close(tried) })
			return err
		})
	}()
	<-tried
	must(t, pool, "SELECT pg_promote(false)")
	if err := <-opened; err != nil {
		t.Errorf("Await: got %v, want the promoted server", err)
	}
}
