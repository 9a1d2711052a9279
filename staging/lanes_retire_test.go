package staging_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// retire takes lanes away, and compares how many are left.
func (x *lanes) retire(keep, want int) {
	x.t.Helper()
	if n, err := staging.RetireLanes(x.t.Context(), x.pool, "laned", keep); err != nil || n != want {
		x.t.Fatalf("RetireLanes(%d): %d, %v, want %d lanes", keep, n, err, want)
	}
}

// laneTables counts the tables of the second lane.
func (x *lanes) laneTables() int {
	x.t.Helper()
	return query[int](x.t, x.pool, `SELECT count(*) FROM pg_class WHERE relname ~ '^laned_.*_[ab]2$' AND relkind = 'r'`)
}

// A retired lane takes no batches, is promoted until it is empty, and is then gone, while the
// programs run. They go on without it, and with it when it comes back.
func TestALaneIsRetired(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}})
	before := x.loadOf(2, laned{ID: "before"})
	stage(t, x.both, before, staging.OutcomeStaged)
	late := x.loadOf(2, laned{ID: "late"})
	x.retire(1, 2)
	if open := query[string](t, x.pool, "SELECT open FROM laned_control"); open != "ar" {
		t.Errorf("open sides are %q, want ar", open)
	}
	stage(t, x.both, late, staging.OutcomeStaged) // the program learns of it by this batch
	if n := laneCount(t, x.pool, x.both, 1); n != 1 {
		t.Errorf("%d batches in the first lane, want 1", n)
	}
	stage(t, x.both, before, staging.OutcomeStaged) // delivered again, into the other lane
	x.retire(1, 2)
	if rows := promoteLanes(t, x.both); rows != 2 {
		t.Errorf("%d rows, want 2", rows)
	}
	x.retire(1, 1)
	if n := x.laneTables(); n != 0 {
		t.Errorf("%d tables of the second lane are left", n)
	}

	// The programs still know two lanes.
	after := x.loadOf(1, laned{ID: "after"})
	stage(t, x.both, after, staging.OutcomeStaged)
	ids := []string{before.Batch.ID, late.Batch.ID, after.Batch.ID, staging.NewBatchID()}
	want := []staging.Fate{staging.FatePromoted, staging.FatePromoted, staging.FateStaged, staging.FateUnknown}
	if got := fates(t, x.both, ids...); !slices.Equal(got, want) {
		t.Errorf("fates %v, want %v", got, want)
	}
	if s := must(x.both.Stats(t.Context())); s.Batches != 1 {
		t.Errorf("Stats: %+v, want a batch", s)
	}
	if f := must(x.both.FindBatches(t.Context(), ids...)); len(f.Batches) != 3 {
		t.Errorf("FindBatches: %+v, want 3 batches", f)
	}
	if p, err := x.both.Promote(t.Context(), staging.PromoteOptions{Lane: 2}); err != nil || len(p.Batches) != 0 {
		t.Errorf("the second lane: got %+v, %v, want nothing", p, err)
	}
	if rows := promoteLanes(t, x.both); rows != 1 {
		t.Errorf("%d rows, want 1", rows)
	}

	x.retire(1, 1)
	again := newTable(t, x.work, "laned", staging.Config[laned]{Key: []string{"id"}, Lanes: 2})
	stage(t, again, inLane(t, again, 2, laned{ID: "again"}), staging.OutcomeStaged)
	if n := laneCount(t, x.pool, again, 2); n != 1 {
		t.Errorf("%d batches in the new lane, want 1", n)
	}
	if rows := promoteLanes(t, x.both); rows != 1 {
		t.Errorf("%d rows, want 1", rows)
	}
	x.allPromoted(ids[:3])
	balanced(t, x.both)
}

// A program whose hint is older than the end of a lane stages into another one.
func TestABatchForALaneThatIsGone(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}})
	stage(t, x.both, x.loadOf(2, laned{ID: "a"}), staging.OutcomeStaged)
	promoteLanes(t, x.both)
	l := x.loadOf(2, laned{ID: "b"})
	x.retire(1, 1)
	stage(t, x.both, l, staging.OutcomeStaged)

	tx, err := x.work.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // it is committed
	l = load(laned{ID: "c"})
	if out, err := x.both.StageTx(t.Context(), tx, l); err != nil || out != staging.OutcomeStaged {
		t.Errorf("StageTx: %v, %v, want staged", out, err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rows := promoteLanes(t, x.both); rows != 2 {
		t.Errorf("%d rows, want 2", rows)
	}
}

// A batch that is staged in the caller's transaction comes into its lane, and into none that
// Config.Lanes leaves out.
func TestStageTxIntoLanes(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}})
	tx, err := x.work.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // it is committed
	for i, c := range []struct {
		by   *staging.Table[laned]
		load staging.Load[laned]
	}{
		{x.both, x.loadOf(1, laned{ID: "a"})},
		{x.both, x.loadOf(2, laned{ID: "b"})},
		{x.narrow, x.loadOf(2, laned{ID: "c"})},
		{x.narrow, x.loadOf(2, laned{ID: "d"})},
	} {
		if out, err := c.by.StageTx(t.Context(), tx, c.load); err != nil || out != staging.OutcomeStaged {
			t.Fatalf("batch %d: %v, %v, want staged", i, out, err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if one, two := laneCount(t, x.pool, x.both, 1), laneCount(t, x.pool, x.both, 2); one != 3 || two != 1 {
		t.Errorf("%d and %d batches in the lanes, want 3 and 1", one, two)
	}
	if rows := promoteLanes(t, x.both); rows != 4 {
		t.Errorf("%d rows, want 4", rows)
	}
}

// A worker that stages into a lane while it is retired either comes in before the lane is dropped,
// and is promoted, or into another lane.
func TestALaneIsNotDroppedUnderAWorker(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}})
	frozen, goOn := stopAt(t, x.both, "before commit")
	l := x.loadOf(2, laned{ID: "a"})
	work := background(func() (staging.Outcome, error) { return x.both.Stage(t.Context(), l) })
	<-frozen
	retiring := background(func() (int, error) { return staging.RetireLanes(t.Context(), x.pool, "laned", 1) })
	untilTrue(t, x.pool, "SELECT open = 'ar' FROM laned_control")
	untilTrue(t, x.pool, "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'laned_registry_a2'::regclass AND mode = 'AccessExclusiveLock')")
	goOn()
	(<-work).must(t)
	if n := (<-retiring).must(t); n != 2 {
		t.Errorf("%d lanes are left, want 2", n)
	}
	if rows := promoteLanes(t, x.both); rows != 1 {
		t.Errorf("%d rows, want 1", rows)
	}
	x.retire(1, 1)
}

// A foreign key to the table itself that comes after the lanes stops promotions before they reject
// rows whose parents are in another lane. What is staged is given back, and the lanes are taken
// away.
func TestATreeAfterItsLanes(t *testing.T) {
	t.Parallel()
	type node struct {
		ID string  `db:"id"`
		Up *string `db:"up"`
	}
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE tree (id text PRIMARY KEY, up text)")
	cfg := staging.Config[node]{Key: []string{"id"}, Lanes: 2}
	tab := newTable(t, pool, "tree", cfg)
	root := "root"
	loads := []staging.Load[node]{inLane(t, tab, 1, node{ID: root}), inLane(t, tab, 2, node{ID: "child", Up: &root})}
	for _, l := range loads {
		stage(t, tab, l, staging.OutcomeStaged)
	}
	exec(t, pool, "ALTER TABLE tree ADD CONSTRAINT tree_up FOREIGN KEY (up) REFERENCES tree")
	_, err := tab.Promote(t.Context(), staging.PromoteOptions{Lane: 2})
	isDrift(t, "Promote", err, "foreign key", "2 lanes", "RetireLanes")
	if s := must(tab.Stats(t.Context())); s.Batches != 2 || s.Stuck() == nil {
		t.Errorf("Stats: %+v, want 2 batches and a failure", s)
	}
	for _, role := range []staging.Role{staging.RoleAll, staging.RoleWorker, staging.RolePromoter, staging.RoleReader} {
		cfg.Role = role
		newTable(t, pool, "tree", cfg)
	}
	cfg.Role, cfg.Lanes = staging.RoleAll, 3
	if _, err := staging.New(t.Context(), pool, "tree", cfg); !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), "tree_up") {
		t.Errorf("a third lane: got %v, want ErrConfig with the constraint", err)
	}

	if ids := must(staging.DiscardStaged(t.Context(), pool, "tree")); len(ids) != 2 {
		t.Errorf("discarded %v, want 2 batches", ids)
	}
	if n, err := staging.RetireLanes(t.Context(), pool, "tree", 1); err != nil || n != 1 {
		t.Fatalf("RetireLanes: %d, %v, want 1 lane", n, err)
	}
	for _, l := range loads {
		stage(t, tab, l, staging.OutcomeStaged)
	}
	if p := promote(t, tab); p.Rows != 2 || p.RejectedByRule != 0 {
		t.Errorf("got %+v, want both rows", p)
	}
	if s := must(tab.Stats(t.Context())); s.Stuck() != nil {
		t.Errorf("Stuck: %v, want nil", s.Stuck())
	}
}

// A table with batches of a group gets no lanes, and one with lanes is a member again when they are
// taken away.
func TestLanesOfAMember(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, lanedTable+"CREATE TABLE other (LIKE laned INCLUDING ALL)")
	cfg := staging.Config[laned]{Key: []string{"id"}}
	rows := func(l laned) []laned { return []laned{l} }
	open := func() *staging.TableGroup[laned] {
		return staging.Group(staging.Into(newTable(t, pool, "laned", cfg), rows), staging.Into(newTable(t, pool, "other", cfg), rows))
	}
	group := open()
	wider := cfg
	wider.Lanes = 2
	for _, promoted := range []bool{false, true} {
		if promoted {
			if _, err := group.Promote(t.Context(), staging.PromoteOptions{}); err != nil {
				t.Fatal(err)
			}
		} else if _, err := group.Stage(t.Context(), load(laned{ID: "a"})); err != nil {
			t.Fatal(err)
		}
		for _, member := range []string{"laned", "other"} {
			if _, err := staging.New(t.Context(), pool, member, wider); !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), "Config.Lanes is 2") {
				t.Errorf("%s, promoted %v: got %v, want ErrConfig", member, promoted, err)
			}
		}
	}
	exec(t, pool, "DELETE FROM other_ledger")
	newTable(t, pool, "other", wider)
	if err := open().Check(t.Context()); !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), "RetireLanes") {
		t.Errorf("got %v, want ErrConfig with what helps", err)
	}
	if n, err := staging.RetireLanes(t.Context(), pool, "other", 1); err != nil || n != 1 {
		t.Fatalf("RetireLanes: %d, %v, want 1 lane", n, err)
	}
	if err := open().Check(t.Context()); err != nil {
		t.Errorf("got %v, want a group", err)
	}
}

// Tables of lanes that were dropped by hand are missed by every call, with what helps.
func TestLaneTablesDroppedByHand(t *testing.T) {
	t.Parallel()
	for name, drop := range map[string]string{
		"all":  "DROP TABLE laned_registry_a2, laned_registry_b2, laned_staging_a2, laned_staging_b2, laned_refused_a2, laned_refused_b2",
		"some": "DROP TABLE laned_registry_a2, laned_staging_b2",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}})
			stage(t, x.both, x.loadOf(1, laned{ID: "a"}), staging.OutcomeStaged)
			exec(t, x.pool, drop)
			calls := map[string]error{}
			_, calls["Stats"] = x.both.Stats(t.Context())
			_, calls["Fates"] = x.both.Fates(t.Context(), []string{staging.NewBatchID()})
			_, calls["FindBatches"] = x.both.FindBatches(t.Context(), staging.NewBatchID())
			_, calls["Promote"] = x.both.Promote(t.Context(), staging.PromoteOptions{Lane: 2})
			if name == "all" {
				_, calls["New"] = staging.New(t.Context(), x.pool, "laned", staging.Config[laned]{Key: []string{"id"}})
			}
			for call, err := range calls {
				isDrift(t, call, err, "lane 2", "RetireLanes")
			}
			x.retire(1, 1)
			if rows := promoteLanes(t, x.both); rows != 1 {
				t.Errorf("%d rows, want 1", rows)
			}
			if _, err := x.both.Stats(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// What RetireLanes cannot do changes nothing.
func TestLanesThatCannotBeRetired(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}})
	for _, keep := range []int{-1, 0, 17} {
		if _, err := staging.RetireLanes(t.Context(), x.pool, "laned", keep); !errors.Is(err, staging.ErrConfig) {
			t.Errorf("keep %d: got %v, want ErrConfig", keep, err)
		}
	}
	if _, err := staging.RetireLanes(t.Context(), x.pool, "nothing", 1); !errors.Is(err, staging.ErrNoTarget) {
		t.Errorf("got %v, want ErrNoTarget", err)
	}
	for _, keep := range []int{2, 5} {
		x.retire(keep, 2)
	}
	if open := query[string](t, x.pool, "SELECT open FROM laned_control"); open != "aa" {
		t.Errorf("open sides are %q, want aa", open)
	}
	// Retired lanes are used again by a program that wants them.
	stage(t, x.both, x.loadOf(2, laned{ID: "a"}), staging.OutcomeStaged)
	x.retire(1, 2)
	wide := newTable(t, x.pool, "laned", staging.Config[laned]{Key: []string{"id"}, Lanes: 2})
	stage(t, wide, inLane(t, wide, 2, laned{ID: "b"}), staging.OutcomeStaged)
	if n := laneCount(t, x.pool, wide, 2); n != 2 {
		t.Errorf("%d batches in the second lane, want 2", n)
	}
}

// inLane makes a batch that a program stages into a lane.
func inLane[T any](t *testing.T, tab *staging.Table[T], lane int, rows ...T) staging.Load[T] {
	t.Helper()
	l := load(rows...)
	for range 1000 {
		if tab.LaneOf(l.Batch.ID) == lane {
			return l
		}
		l.Batch.ID = staging.NewBatchID()
	}
	t.Fatalf("no batch is staged into lane %d", lane)
	return l
}

// Handles that were opened before the number of lanes grew see what is staged in the new ones.
func TestHandlesSeeNewLanes(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, lanedTable)
	cfg := staging.Config[laned]{Key: []string{"id"}}
	table := newTable(t, pool, "laned", cfg)
	ledger, err := staging.OpenLedger(t.Context(), pool, "laned")
	if err != nil {
		t.Fatal(err)
	}
	finder, err := staging.NewFinder(t.Context(), pool, "laned", "id")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Lanes = 3
	grown := newTable(t, pool, "laned", cfg)
	var ids []string
	for lane := 1; lane <= 3; lane++ {
		l := inLane(t, grown, lane, laned{ID: fmt.Sprint(lane)})
		stage(t, grown, l, staging.OutcomeStaged)
		ids = append(ids, l.Batch.ID)
	}
	for name, stats := range map[string]func() (staging.Stats, error){
		"Table":  func() (staging.Stats, error) { return table.Stats(t.Context()) },
		"Ledger": func() (staging.Stats, error) { return ledger.Stats(t.Context()) },
	} {
		if s, err := stats(); err != nil || s.Batches != 3 {
			t.Errorf("%s: %+v, %v, want 3 batches", name, s, err)
		}
	}
	for name, find := range map[string]func() (staging.FoundBatches, error){
		"Table":  func() (staging.FoundBatches, error) { return table.FindBatches(t.Context(), ids...) },
		"Finder": func() (staging.FoundBatches, error) { return finder.FindBatches(t.Context(), ids...) },
	} {
		if f, err := find(); err != nil || len(f.Batches) != 3 || len(f.Limits) != 0 {
			t.Errorf("%s: %+v, %v, want 3 batches without limits", name, f, err)
		}
	}
}

// A promotion that finds all lanes taken fails in one of those. The next success there ends the
// failure.
func TestABusyLaneIsTheOneThatFails(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}})
	stage(t, x.both, x.loadOf(2, laned{ID: "a"}), staging.OutcomeStaged)
	hasty := newTable(t, x.work, "laned", staging.Config[laned]{Key: []string{"id"}, LockTimeout: 10 * time.Millisecond})
	release := x.hold("LOCK TABLE laned_registry_a2 IN ACCESS EXCLUSIVE MODE")
	if p, err := hasty.Promote(t.Context(), staging.PromoteOptions{}); !errors.Is(err, staging.ErrBusy) {
		t.Errorf("got %+v, %v, want ErrBusy", p, err)
	}
	if lane := query[int](t, x.pool, "SELECT failed_lane FROM laned_control"); lane != 2 {
		t.Errorf("lane %d has failed, want 2", lane)
	}
	release()
	if p, err := x.both.Promote(t.Context(), staging.PromoteOptions{Lane: 2}); err != nil || p.Rows != 1 {
		t.Errorf("got %+v, %v, want a row", p, err)
	}
	if s := must(x.both.Stats(t.Context())); s.Stuck() != nil {
		t.Errorf("Stuck: %v, want nil", s.Stuck())
	}
}
