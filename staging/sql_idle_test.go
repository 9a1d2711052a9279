package staging_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5/pgxpool"
)

// idlePool is a pool whose idle connections the test ends.
type idlePool struct {
	*pgxpool.Pool
	own *pgxpool.Pool // of the test
	end string        // a statement on each connection that makes the server end it; empty: an administrator does
}

func newIdlePool(t *testing.T, own *pgxpool.Pool, end string) idlePool {
	t.Helper()
	c := own.Config()
	c.MaxConns, c.ConnConfig.RuntimeParams["application_name"] = 5, "idle"
	p, err := pgxpool.NewWithConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return idlePool{p, own, end}
}

// endIdle fills the pool with idle connections that the server has ended.
func (p idlePool) endIdle(t *testing.T) {
	t.Helper()
	p.Reset() // a call may have left some
	var all []*pgxpool.Conn
	for range 2 {
		c, err := p.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release() // in case the test ends here
		all = append(all, c)
	}
	for _, c := range all {
		if _, err := c.Exec(t.Context(), "SELECT 1; "+p.end); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range all {
		c.Release()
	}
	if p.end == "" {
		exec(t, p.own, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'idle'")
	}
	untilTrue(t, p.own, "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'idle'")
}

// Connections that the server has ended while they were idle in the pool are no error of any call.
func TestIdleConnectionsAreEnded(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]string{"by an administrator": "", "by idle_session_timeout": "SET idle_session_timeout = 1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := servertest.Postgres(t)
			exec(t, own, salesTables)
			pool := newIdlePool(t, own, end)
			s, same := openSales(t, pool.Pool), openSales(t, own)
			a := goodSale("a", 2)
			a.Lines[0].SKU = ptr("trigger")
			first, alone := salesLoad(a, goodSale("b", 1)), load(saleNote{"x", "trigger"}, saleNote{"y", "good"})
			second, third := salesLoad(goodSale("c", 1)), load(saleNote{"z", "good"})
			batches := []string{first.Batch.ID, alone.Batch.ID}
			void := func() staging.Batch { return load(saleNote{}).Batch }
			done := func(n int, err error) (int, error) {
				if err == nil && n == 0 {
					err = fmt.Errorf("nothing was done")
				}
				return n, err
			}
			for _, c := range []struct {
				name string
				call func(ctx context.Context) (any, error)
			}{
				{"New", func(ctx context.Context) (any, error) {
					return staging.New(ctx, pool.Pool, "notes", salesConfigs(staging.RoleAll).notes)
				}},
				{"SQL", func(ctx context.Context) (any, error) {
					return staging.SQL(ctx, pool.Pool, "notes", salesConfigs(staging.RoleAll).notes)
				}},
				{"Grants", func(ctx context.Context) (any, error) {
					return staging.Grants(ctx, pool.Pool, "notes", salesConfigs(staging.RoleAll).notes, "x")
				}},
				{"OpenLedger", func(ctx context.Context) (any, error) { return staging.OpenLedger(ctx, pool.Pool, "notes") }},
				{"NewFinder", func(ctx context.Context) (any, error) { return staging.NewFinder(ctx, pool.Pool, "notes", "head") }},
				{"Group.Check", func(ctx context.Context) (any, error) { return nil, s.Check(ctx) }},
				{"Group.Stage", func(ctx context.Context) (any, error) { return s.Stage(ctx, first) }},
				{"Stage", func(ctx context.Context) (any, error) { return s.notes.Stage(ctx, alone) }},
				{"Group.Promote", func(ctx context.Context) (any, error) {
					p, err := s.Promote(ctx, staging.PromoteOptions{})
					return done(p.Rows, err)
				}},
				{"Promote", func(ctx context.Context) (any, error) {
					p, err := s.notes.Promote(ctx, staging.PromoteOptions{})
					return done(p.Rows, err)
				}},
				{"Group.Fates", func(ctx context.Context) (any, error) { return s.Fates(ctx, batches) }},
				{"Fates", func(ctx context.Context) (any, error) { return s.notes.Fates(ctx, batches) }},
				{"Group.Void", func(ctx context.Context) (any, error) { return s.Void(ctx, void()) }},
				{"Void", func(ctx context.Context) (any, error) { return s.notes.Void(ctx, void()) }},
				{"Group.Epoch", func(ctx context.Context) (any, error) { return s.Epoch(ctx) }},
				{"Epoch", func(ctx context.Context) (any, error) { return s.notes.Epoch(ctx) }},
				{"Group.Stats", func(ctx context.Context) (any, error) { return s.Stats(ctx) }},
				{"Stats", func(ctx context.Context) (any, error) { return s.notes.Stats(ctx) }},
				{"Group.Books", func(ctx context.Context) (any, error) { return s.Books(ctx) }},
				{"Books", func(ctx context.Context) (any, error) { return s.notes.Books(ctx) }},
				{"Group.StageCounts", func(ctx context.Context) (any, error) { return s.StageCounts(ctx, time.Time{}) }},
				{"StageCounts", func(ctx context.Context) (any, error) { return s.notes.StageCounts(ctx, time.Time{}) }},
				{"Clock", func(ctx context.Context) (any, error) { return s.notes.Clock(ctx) }},
				{"Group.CodeCounts", func(ctx context.Context) (any, error) { return s.CodeCounts(ctx) }},
				{"CodeCounts", func(ctx context.Context) (any, error) { return s.notes.CodeCounts(ctx) }},
				{"Advise", func(ctx context.Context) (any, error) { return s.notes.Advise(ctx) }},
				{"Group.Rejects", func(ctx context.Context) (any, error) { return s.Rejects(ctx, staging.RejectFilter{}) }},
				{"Rejects", func(ctx context.Context) (any, error) { return s.notes.Rejects(ctx, staging.RejectFilter{}) }},
				{"RejectedKeys", func(ctx context.Context) (any, error) { return s.notes.RejectedKeys(ctx, batches) }},
				{"RejectsByBatch", func(ctx context.Context) (any, error) { return s.notes.RejectsByBatch(ctx, batches) }},
				{"FindKey", func(ctx context.Context) (any, error) { return s.notes.FindKey(ctx, "x") }},
				{"Group.FindBatches", func(ctx context.Context) (any, error) { return s.FindBatches(ctx, batches...) }},
				{"FindBatches", func(ctx context.Context) (any, error) { return s.notes.FindBatches(ctx, batches...) }},
				{"FindSealed", func(ctx context.Context) (any, error) { return s.notes.FindSealed(ctx, time.Time{}, time.Now(), 9) }},
				{"Group.Replay", func(ctx context.Context) (any, error) {
					p, err := s.Replay(ctx, []staging.Correction[sale]{{Reject: rejectOf(t, same, "a"), Rows: []sale{goodSale("a", 2)}}})
					return done(p.Rows, err)
				}},
				{"Replay", func(ctx context.Context) (any, error) {
					p, err := s.notes.Replay(ctx, []staging.Correction[saleNote]{{Reject: rejectOf(t, same.notes, "x"), Rows: []saleNote{{"x", "good"}}}})
					return done(p.Rows, err)
				}},
				{"Group.Resolve", func(ctx context.Context) (any, error) { return s.Resolve(ctx, 1) }},
				{"Resolve", func(ctx context.Context) (any, error) { return s.notes.Resolve(ctx, 1) }},
				{"Group.Prune", func(ctx context.Context) (any, error) { return s.Prune(ctx, noon) }},
				{"Prune", func(ctx context.Context) (any, error) { return s.notes.Prune(ctx, noon) }},
				{"Group.Stage again", func(ctx context.Context) (any, error) { return s.Stage(ctx, second) }},
				{"Stage again", func(ctx context.Context) (any, error) { return s.notes.Stage(ctx, third) }},
				{"DiscardStaged", func(ctx context.Context) (any, error) {
					ids, err := staging.DiscardStaged(ctx, pool.Pool, "notes")
					return done(len(ids), err)
				}},
				{"RetireLanes", func(ctx context.Context) (any, error) { return staging.RetireLanes(ctx, pool.Pool, "notes", 1) }},
				{"Rewrite", func(ctx context.Context) (any, error) {
					p, err := staging.Rewrite[saleNote, saleNote]{Name: "copy", Source: "SELECT id AS head, kind AS text FROM heads", Key: "head",
						Transform: func(_ context.Context, in []saleNote) ([]saleNote, error) { return in, nil }}.Run(ctx, s.notes)
					return done(int(p.Written), err)
				}},
			} {
				pool.endIdle(t)
				if _, err := c.call(t.Context()); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
			}
			balanced(t, s.notes)
		})
	}
}
