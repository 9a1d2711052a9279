package staging_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5/pgxpool"
)

// waitForStandby makes the server wait in each commit for a standby that is not there, or for none.
func waitForStandby(t *testing.T, pool *pgxpool.Pool, names string) {
	t.Helper()
	exec(t, pool, "ALTER SYSTEM SET synchronous_standby_names = '"+names+"'")
	exec(t, pool, "SELECT pg_reload_conf()")
	servertest.Eventually(t, "the server waits for "+names, func() bool {
		waited := false
		_ = whenItWaits(t, pool, func(ctx context.Context) error {
			_, err := pool.Exec(ctx, "SELECT pg_logical_emit_message(true, 'test', '')")
			return err
		}, func(func()) {
			waited = true
			exec(t, pool, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
		})
		return waited == (names != "")
	})
}

// whenItWaits runs a call, and does something when its commit waits for the standby. cancel ends
// the context of the call.
func whenItWaits(t *testing.T, pool *pgxpool.Pool, call func(ctx context.Context) error, do func(cancel func())) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// Not the sessions of earlier calls, if any wait.
	before := query[[]int32](t, pool, "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
	done := background(func() (struct{}, error) { return struct{}{}, call(ctx) })
	for {
		select {
		case r := <-done:
			return r.err
		default:
		}
		if query[bool](t, pool, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND pid <> ALL ($1))", before) {
			do(cancel)
			return (<-done).err
		}
	}
}

// notDurable checks an error about a commit that no standby has.
func notDurable(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, staging.ErrNotDurable) || !errors.Is(err, staging.ErrUnknown) || strings.Count(err.Error(), "staging: ") != 1 ||
		!strings.Contains(err.Error(), `synchronous_standby_names (it is "away")`) || !strings.Contains(err.Error(), "Start the standby, or take it out") {
		t.Errorf("%s: got %v, want ErrNotDurable with the setting and what helps", what, err)
	}
}

// While a synchronous standby is away, batches are staged, the books are read, and nothing is
// reported as committed that the loss of the server would lose: also after the wait was cancelled.
// When the standby is back, each batch is there once, and each result is returned.
func TestASynchronousStandbyIsAway(t *testing.T) {
	t.Parallel()
	pool := servertest.OwnPostgres(t).Pool(t)
	exec(t, pool, salesTables)
	tab := ledgerOnly(t, pool, staging.Config[item]{})
	silent := withParams(t, pool, map[string]string{"client_min_messages": "error"})
	patient := newTable(t, silent, "items", staging.Config[item]{})
	g := openSales(t, pool)
	old := load(items("o", 5)...)
	stage(t, tab, old, staging.OutcomeStaged)
	promote(t, tab)
	waitForStandby(t, pool, "away")
	untilItWaits := func(call func(ctx context.Context) error) error {
		return whenItWaits(t, pool, call, func(cancel func()) { cancel() })
	}

	first, second, sale := load(items("a", 5)...), load(items("b", 5)...), salesLoad(goodSale("s1", 2))
	for range 33 { // each 32nd number of a sequence writes WAL
		stage(t, tab, load(items("n", 1)...), staging.OutcomeStaged)
	}
	stage(t, tab, first, staging.OutcomeStaged)
	stageGroup(t, g.TableGroup, sale, staging.OutcomeStaged)
	promoteInto := func(ctx context.Context) error {
		p, err := tab.Promote(ctx, staging.PromoteOptions{})
		if len(p.Batches) > 0 {
			t.Errorf("a promotion that no standby has returned %+v", p)
		}
		return err
	}
	notDurable(t, "Promote", untilItWaits(promoteInto))
	stage(t, tab, second, staging.OutcomeStaged)
	notDurable(t, "the next Promote", untilItWaits(promoteInto))
	if n := query[int](t, pool, "SELECT count(*) FROM items"); n != 43 {
		t.Errorf("the target has %d rows, want 43: a promoter that waits promotes nothing more", n)
	}
	notDurable(t, "Promote of a group", untilItWaits(func(ctx context.Context) error {
		_, err := g.Promote(ctx, staging.PromoteOptions{})
		return err
	}))
	void := load(items("v", 1)...)
	for what, call := range map[string]func(ctx context.Context) error{
		"Fates of a batch that was promoted before": func(ctx context.Context) error { _, err := tab.Fates(ctx, []string{old.Batch.ID}); return err },
		"Fates":                               func(ctx context.Context) error { _, err := tab.Fates(ctx, []string{first.Batch.ID}); return err },
		"Fates of a group":                    func(ctx context.Context) error { _, err := g.Fates(ctx, []string{sale.Batch.ID}); return err },
		"Stage":                               func(ctx context.Context) error { _, err := tab.Stage(ctx, first); return err },
		"Stage of a group":                    func(ctx context.Context) error { _, err := g.Stage(ctx, sale); return err },
		"Void of a promoted batch":            func(ctx context.Context) error { _, err := tab.Void(ctx, first.Batch); return err },
		"Void of a promoted batch of a group": func(ctx context.Context) error { _, err := g.Void(ctx, sale.Batch); return err },
		"Void":                                func(ctx context.Context) error { _, err := tab.Void(ctx, void.Batch); return err },
		"Void again":                          func(ctx context.Context) error { _, err := tab.Void(ctx, void.Batch); return err },
		"Void of a group":                     func(ctx context.Context) error { _, err := g.Void(ctx, void.Batch); return err },
		"Void of a group again":               func(ctx context.Context) error { _, err := g.Void(ctx, void.Batch); return err },
		"Prune":                               func(ctx context.Context) error { _, err := tab.Prune(ctx, time.Now().Add(-time.Hour)); return err },
		"DiscardStaged":                       func(ctx context.Context) error { _, err := staging.DiscardStaged(ctx, pool, "heads"); return err },
		"New": func(ctx context.Context) error {
			_, err := staging.New(ctx, pool, "fresh", staging.Config[item]{Create: true})
			return err
		},
	} {
		notDurable(t, what, untilItWaits(call))
	}
	tab.SetCommitTimeout(50 * time.Millisecond)
	_, err := tab.Void(t.Context(), void.Batch)
	notDurable(t, "Void after its time limit", err)
	notDurable(t, "Promote after its time limit", promoteInto(t.Context()))
	tab.SetCommitTimeout(staging.DefaultCommitTimeout)

	// Who only reads needs no standby.
	if f := fates(t, tab, second.Batch.ID); f[0] != staging.FateStaged {
		t.Errorf("fate of a staged batch is %v", f[0])
	}
	if s, err := tab.Stats(t.Context()); err != nil || s.Batches != 1 || !strings.Contains(s.Failure, "synchronous_standby_names") {
		t.Errorf("stats are %+v, %v, want one batch and the failure", s, err)
	}
	balanced(t, tab)
	if _, err := tab.Epoch(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := tab.FindBatches(t.Context(), first.Batch.ID); err != nil {
		t.Error(err)
	}

	// An administrator ends the wait: the server then answers COMMIT as if a standby had it.
	for _, end := range []string{"pg_cancel_backend", "pg_terminate_backend"} {
		l := load(items(end, 5)...)
		stage(t, patient, l, staging.OutcomeStaged)
		other := newTable(t, silent, "items", staging.Config[item]{}) // one that has nothing to confirm yet
		err := whenItWaits(t, pool, func(ctx context.Context) error {
			_, err := other.Promote(ctx, staging.PromoteOptions{})
			return err
		}, func(func()) {
			exec(t, pool, "SELECT "+end+"(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
		})
		if !errors.Is(err, staging.ErrNotDurable) || !strings.Contains(err.Error(), "the wait for it was cancelled") {
			t.Errorf("%s: got %v, want ErrNotDurable", end, err)
		}
	}

	waitForStandby(t, pool, "")
	if p := promote(t, tab); len(p.Batches) != 34 || p.Rows != 38 || !p.More {
		t.Errorf("the first promotion is %d batches, %d rows, more %v, want 34, 38, true", len(p.Batches), p.Rows, p.More)
	}
	if p := promote(t, tab); len(p.Batches) != 0 {
		t.Errorf("a further promotion has %d batches, want none", len(p.Batches))
	}
	if p := promoteGroup(t, g.TableGroup); len(p.Batches) != 1 {
		t.Errorf("the promotion of the group has %d batches, want 1", len(p.Batches))
	}
	if f := fates(t, tab, old.Batch.ID, first.Batch.ID, second.Batch.ID, void.Batch.ID); f[0] != staging.FatePromoted || f[1] != staging.FatePromoted || f[2] != staging.FatePromoted || f[3] != staging.FateVoid {
		t.Errorf("fates are %v", f)
	}
	stage(t, tab, first, staging.OutcomeAlreadyPromoted)
	stage(t, tab, void, staging.OutcomeAlreadyVoid)
	if n := query[int](t, pool, "SELECT count(*) FROM items"); n != 58 {
		t.Errorf("the target has %d rows, want 58", n)
	}
	balanced(t, tab)
}
