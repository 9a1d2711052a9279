package together_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
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
		"staging: RetireLanes": func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := staging.RetireLanes(ctx, pool, n, 1)
			return err
		},
		"staging: voiding batch": func(ctx context.Context, _ *pgxpool.Pool) error {
			_, err := target.Void(ctx, staging.Batch{ID: staging.NewBatchID(), Records: 1})
			return err
		},
		"staging: reading the fates": func(ctx context.Context, _ *pgxpool.Pool) error {
			_, err := target.Fates(ctx, []string{staging.NewBatchID()})
			return err
		},
		"staging: reading the epoch": func(ctx context.Context, _ *pgxpool.Pool) error { _, err := target.Epoch(ctx); return err },
		"staging: counting":          func(ctx context.Context, _ *pgxpool.Pool) error { _, err := target.Stats(ctx); return err },
		"staging: resolving":         func(ctx context.Context, _ *pgxpool.Pool) error { _, err := target.Resolve(ctx, 1); return err },
		"staging: raising the floor": func(ctx context.Context, _ *pgxpool.Pool) error { _, err := target.Prune(ctx, time.Time{}); return err },
		"staging: replaying": func(ctx context.Context, _ *pgxpool.Pool) error {
			_, err := target.Replay(ctx, []staging.Correction[row]{{Reject: 1, Rows: []row{{1}}}})
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
	// A server that is promoted before it is asked answers that it is no standby.
	for _, sql := range []string{"BEGIN READ WRITE", "TABLE orders_staging_a", "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"} {
		_, err := one.Exec(t.Context(), sql)
		if named := pgschema.NameStandby(t.Context(), promoted{}, err); !errors.Is(named, pgschema.ErrStandby) {
			t.Errorf("%s at a standby that is promoted then: %#v, want ErrStandby", sql, named)
		}
	}

	// What the ledger, the rejects and the target hold can be read there.
	ledger, err := staging.OpenLedger(t.Context(), one, n)
	if err != nil {
		t.Fatal(err)
	}
	finder, err := staging.NewFinder(t.Context(), one, n, "id")
	if err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func(ctx context.Context) error{
		"SQL":         func(ctx context.Context) error { _, err := staging.SQL(ctx, one, n, staging.Config[row]{}); return err },
		"Books":       func(ctx context.Context) error { _, err := ledger.Books(ctx); return err },
		"StageCounts": func(ctx context.Context) error { _, err := ledger.StageCounts(ctx, time.Time{}); return err },
		"CodeCounts":  func(ctx context.Context) error { _, err := ledger.CodeCounts(ctx); return err },
		"Clock":       func(ctx context.Context) error { _, err := ledger.Clock(ctx); return err },
		"Rejects":     func(ctx context.Context) error { _, err := ledger.Rejects(ctx, staging.RejectFilter{}); return err },
		"Fates": func(ctx context.Context) error {
			_, err := ledger.Fates(ctx, []string{staging.NewBatchID()})
			return err
		},
		"RejectedKeys": func(ctx context.Context) error {
			_, err := target.RejectedKeys(ctx, []string{staging.NewBatchID()})
			return err
		},
		"Advise":  func(ctx context.Context) error { _, err := target.Advise(ctx); return err },
		"FindKey": func(ctx context.Context) error { _, err := finder.FindKey(ctx, "1"); return err },
		"FindSealed": func(ctx context.Context) error {
			_, err := finder.FindSealed(ctx, time.Time{}, time.Now(), 1)
			return err
		},
		"FindBatches": func(ctx context.Context) error {
			found, err := finder.FindBatches(ctx, staging.NewBatchID())
			if err == nil && (len(found.Limits) != 2 || !strings.Contains(found.Limits[0], "a standby does not have it")) {
				err = fmt.Errorf("limits are %q, want both sides", found.Limits)
			}
			return err
		},
	} {
		if err := f(t.Context()); err != nil {
			t.Errorf("%s at a standby: %v", what, err)
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

// promoted answers as a server that is no standby.
type promoted struct{}

func (p promoted) QueryRow(context.Context, string, ...any) pgx.Row { return p }

func (promoted) Scan(dest ...any) error {
	standby, _ := dest[0].(*bool)
	*standby = false
	return nil
}
