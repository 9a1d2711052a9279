package staging_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// A program that stages into one table of the group, with a promoter of its own, two promoters and
// two workers of the group: none deadlocks, and each promotes its own batches.
func TestGroupAndAProgramOfOneTable(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	const batches = 12
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	alone := openSales(t, pool).notes
	var workers sync.WaitGroup
	var promoters sync.WaitGroup
	done := make(chan struct{})
	fail := func(who string, err error) {
		t.Errorf("%s: %v", who, err)
		cancel()
	}
	ids := map[string]string{} // by who stages
	var mu sync.Mutex
	own := func(who string, p staging.PromoteResult) {
		mu.Lock()
		defer mu.Unlock()
		for _, b := range p.Batches {
			if ids[b.ID] != who {
				t.Errorf("the promoter of %s has promoted a batch of %s", who, ids[b.ID])
			}
		}
	}
	promoting := func(who string, promote func(context.Context, staging.PromoteOptions) (staging.PromoteResult, error)) {
		for last := false; ; {
			p, err := promote(ctx, staging.PromoteOptions{})
			switch {
			case err != nil && !errors.Is(err, staging.ErrBusy):
				fail(who, err)
				return
			case ctx.Err() != nil:
				return
			}
			own(who, p)
			if err != nil || len(p.Batches) > 0 {
				continue
			}
			if last {
				return
			}
			select {
			case <-done:
				last = true // what was staged before
			case <-time.After(2 * time.Millisecond):
			}
		}
	}
	for n := range 2 {
		g := openSales(t, pool)
		workers.Go(func() {
			for i := range batches {
				l := salesLoad(goodSale(fmt.Sprintf("g%d-%d", n, i), 3))
				mu.Lock()
				ids[l.Batch.ID] = "the group"
				mu.Unlock()
				if _, err := g.Stage(ctx, l); err != nil {
					fail("a worker of the group", err)
					return
				}
			}
		})
		promoters.Go(func() { promoting("the group", g.Promote) })
	}
	workers.Go(func() {
		for i := range batches {
			l := load(saleNote{fmt.Sprint("alone", i), "good"}, saleNote{fmt.Sprint("alone", i), "trigger"})
			mu.Lock()
			ids[l.Batch.ID] = "the table"
			mu.Unlock()
			if _, err := alone.Stage(ctx, l); err != nil {
				fail("a worker of the table", err)
				return
			}
		}
	})
	promoters.Go(func() { promoting("the table", alone.Promote) })
	workers.Wait()
	close(done)
	promoters.Wait()
	rows := rowsOf(t, pool, "notes")
	for i := range batches {
		for _, id := range []string{fmt.Sprint("g0-", i), fmt.Sprint("g1-", i), fmt.Sprint("alone", i)} {
			if rows[id] != 1 {
				t.Errorf("%d notes of %s, want 1", rows[id], id)
			}
		}
	}
	balanced(t, alone)
}

// A table of the group that is promoted alone leaves the group's batches where they are.
func TestGroupBatchesAreNotPromotedInPart(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g := openSales(t, pool)
	l := salesLoad(goodSale("a", 1))
	stageGroup(t, g.TableGroup, l, staging.OutcomeStaged)
	stage(t, g.notes, load(saleNote{"b", "good"}), staging.OutcomeStaged)
	if p := promote(t, g.notes); p.Rows != 1 || len(p.Batches) != 1 {
		t.Errorf("notes alone: %+v, want their own batch", p)
	}
	if p := promote(t, g.lines); p.Rows != 0 || len(p.Batches) != 0 {
		t.Errorf("lines alone: %+v, want nothing", p)
	}
	if p := promoteGroup(t, g.TableGroup); p.Rows != 3 || len(p.Mismatched) != 0 {
		t.Errorf("the group: %+v, want 3 rows", p)
	}
	// A batch that the table alone has staged or promoted cannot be the group's.
	for _, promoted := range []bool{false, true} {
		one := load(saleNote{"c", "good"})
		stage(t, g.notes, one, staging.OutcomeStaged)
		if promoted {
			promote(t, g.notes)
		}
		again := salesLoad(goodSale("c", 1))
		again.Batch = one.Batch
		if _, err := g.Stage(t.Context(), again); !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), one.Batch.ID) {
			t.Errorf("the batch of a table (promoted: %v): %v, want ErrConfig", promoted, err)
		}
		promote(t, g.notes)
	}
	if got := rowsOf(t, pool, "notes")["c"]; got != 2 {
		t.Errorf("%d notes of c, want one of each batch", got)
	}
}

// A group of other tables with the same leader takes the batches over: what it cannot promote whole
// is staged again.
func TestGroupGainsATable(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	now := openSales(t, pool)
	before := staging.Group(staging.Into(now.lines, func(s sale) []saleLine { return s.Lines }), staging.Into(now.heads, func(s sale) []saleHead { return s.Heads }))
	l := salesLoad(goodSale("a", 1))
	stageGroup(t, before, l, staging.OutcomeStaged)
	if p := promoteGroup(t, now.TableGroup); len(p.Mismatched) != 1 || p.Rows != 0 {
		t.Errorf("promoted %+v, want the batch set aside", p)
	}
	stageGroup(t, now.TableGroup, l, staging.OutcomeStaged)
	if p := promoteGroup(t, before); len(p.Mismatched) != 1 || p.Rows != 0 {
		t.Errorf("promoted %+v by the group of before, want the batch set aside", p)
	}
	promoteGroup(t, now.TableGroup) // the note of the batch that was set aside
	stageGroup(t, now.TableGroup, l, staging.OutcomeStaged)
	if p := promoteGroup(t, now.TableGroup); p.Rows != 3 {
		t.Errorf("promoted %+v, want 3 rows", p)
	}
}

// Worker, promoter and reader of a group need what Grants lists for each table, and no more.
func TestGroupGrantsAreThoseOfItsTables(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	forbidDDL(t, pool)
	groups := map[staging.Role]sales{}
	for _, role := range []staging.Role{staging.RoleWorker, staging.RolePromoter, staging.RoleReader} {
		user, name := login(t, pool)
		s := salesConfigs(role)
		for i, describe := range []func() (schema, grants string, err error){
			func() (string, string, error) { return described(t, pool, "heads", s.heads, name) },
			func() (string, string, error) { return described(t, pool, "lines", s.lines, name) },
			func() (string, string, error) { return described(t, pool, "notes", s.notes, name) },
		} {
			schema, grants, err := describe()
			if err != nil {
				t.Fatal(i, err)
			}
			exec(t, pool, schema+grants)
		}
		exec(t, pool, "GRANT SELECT ON custs TO "+name) // for the foreign key's look into its parent
		groups[role] = openSalesWith(t, user, s)
	}
	worker, promoter, reader := groups[staging.RoleWorker], groups[staging.RolePromoter], groups[staging.RoleReader]
	bad := goodSale("b", 2)
	bad.Lines[0].N = 0
	nul := goodSale("n", 1)
	nul.Notes[0].Text = "\x00"
	l := salesLoad(goodSale("a", 2), bad, nul)
	stageGroup(t, worker.TableGroup, l, staging.OutcomeStaged)
	p := promoteGroup(t, promoter.TableGroup)
	if p.Rows != 4 || p.RejectedByRule != 4 || p.Rejected != 1 {
		t.Errorf("promoted %+v, want 4 rows, 4 rejected and 1 before", p)
	}
	for _, g := range groups {
		groupFate(t, g.TableGroup, l.Batch.ID, staging.FatePromoted)
		if b, err := g.Books(t.Context()); err != nil || b.Balanced() != nil || b.Records != 3 {
			t.Errorf("books %+v, %v", b, err)
		}
		if _, err := g.Epoch(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := g.Stats(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := worker.Void(t.Context(), staging.Batch{ID: staging.NewBatchID(), Records: 1}); err != nil {
		t.Error(err)
	}
	r, err := reader.Rejects(t.Context(), staging.RejectFilter{})
	if err != nil || len(r) != 5 {
		t.Fatalf("%d rejects, %v, want 5", len(r), err)
	}
	if n, err := promoter.Resolve(t.Context(), r[0].ID); err != nil || n == 0 {
		t.Errorf("resolved %d, %v", n, err)
	}
	if _, err := promoter.Prune(t.Context(), time.Now().Add(-time.Hour)); err != nil {
		t.Error(err)
	}
	stageGroup(t, worker.TableGroup, salesLoad(goodSale("z", 1)), staging.OutcomeStaged)
	if _, err := worker.Promote(t.Context(), staging.PromoteOptions{}); !errors.Is(err, staging.ErrPrivilege) {
		t.Errorf("a worker promotes: %v, want ErrPrivilege", err)
	}
	if _, err := reader.Stage(t.Context(), salesLoad(goodSale("y", 1))); !errors.Is(err, staging.ErrPrivilege) {
		t.Errorf("a reader stages: %v, want ErrPrivilege", err)
	}
}

// While a promotion of a group waits for a lock that a backup holds on one table, readers and
// workers of every table go on: they do not queue for a lock behind it.
func TestReadersPassAPromotionOfAGroupThatWaits(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"heads_registry_a", "lines_staging_a", "notes_refused_a", "lines"} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, salesTables)
			c := salesConfigs(staging.RoleAll)
			c.heads.LockTimeout, c.lines.LockTimeout, c.notes.LockTimeout = time.Hour, time.Hour, time.Hour
			g, other := openSalesWith(t, pool, c), openSales(t, pool)
			l := salesLoad(goodSale("a", 2))
			stageGroup(t, g.TableGroup, l, staging.OutcomeStaged)
			backup, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer backup.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // rolled back below
			mode := map[bool]string{true: "SHARE", false: "ACCESS SHARE"}[table == "lines"]
			if _, err := backup.Exec(t.Context(), "LOCK TABLE "+table+" IN "+mode+" MODE"); err != nil {
				t.Fatal(err)
			}
			slices := make(chan struct{}, 1000)
			g.SetHook(signalAt("between slices", slices))
			promoted := background(func() (staging.PromoteResult, error) { return g.Promote(t.Context(), staging.PromoteOptions{}) })
			const rounds = 2
			for i := range rounds {
				awaitSlice(t, slices, promoted) // it waits again soon
				groupFate(t, other.TableGroup, l.Batch.ID, staging.FateStaged)
				for _, member := range []interface {
					Stats(context.Context) (staging.Stats, error)
				}{other.TableGroup, other.heads, other.lines, other.notes} {
					if s, err := member.Stats(t.Context()); err != nil || s.Promoting || s.Batches != int64(1+i) {
						t.Errorf("got stats %+v, %v, want %d batches and no promotion", s, err, 1+i)
					}
				}
				stageGroup(t, other.TableGroup, salesLoad(goodSale(fmt.Sprint("b", i), 1)), staging.OutcomeStaged)
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
			for p := promoteGroup(t, other.TableGroup); len(p.Batches) > 0; p = promoteGroup(t, other.TableGroup) {
			}
			if rows := rowsOf(t, pool, "heads"); len(rows) != 1+rounds {
				t.Errorf("got %d heads, want %d", len(rows), 1+rounds)
			}
		})
	}
}

// A promotion of a group waits for the workers that copy into the side, in any of its tables, and
// then takes their batches too. The mutation "without its lock" would truncate them.
func TestGroupPromotionWaitsForWorkers(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g, worker := openSales(t, pool), openSales(t, pool)
	first, late := salesLoad(goodSale("a", 2)), salesLoad(goodSale("b", 2))
	stageGroup(t, g.TableGroup, first, staging.OutcomeStaged)
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	worker.SetHook(func(p string) error {
		if p == "between copies" {
			once.Do(func() { close(reached); <-goOn })
		}
		return nil
	})
	staged := background(func() (staging.Outcome, error) { return worker.Stage(t.Context(), late) })
	select {
	case <-reached:
	case r := <-staged:
		t.Fatalf("the worker did not copy: %v, %v", r.v, r.err)
	}
	promoted := background(func() (staging.PromoteResult, error) { return g.Promote(t.Context(), staging.PromoteOptions{}) })
	untilWaiting(t, pool)
	close(goOn)
	if out := (<-staged).must(t); out != staging.OutcomeStaged {
		t.Errorf("got %v, want staged", out)
	}
	if p := (<-promoted).must(t); len(p.Batches) != 2 || p.Rows != 8 || len(p.Mismatched) != 0 {
		t.Errorf("promoted %+v, want both batches", p)
	}
	groupFate(t, g.TableGroup, late.Batch.ID, staging.FatePromoted)
	if got := rowsOf(t, pool, "lines"); got["a"] != 2 || got["b"] != 2 {
		t.Errorf("got lines %v, want two of each sale", got)
	}
}
