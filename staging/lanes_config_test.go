package staging_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
)

// inLanes stages batches of one row until each of two lanes has some, and returns their ids.
func inLanes(t *testing.T, tab *staging.Table[laned], prefix string) (ids []string) {
	t.Helper()
	for seen := [3]bool{}; !seen[1] || !seen[2]; {
		l := load(laned{ID: fmt.Sprintf("%s%d", prefix, len(ids))})
		stage(t, tab, l, staging.OutcomeStaged)
		seen[tab.LaneOf(l.Batch.ID)], ids = true, append(ids, l.Batch.ID)
	}
	return ids
}

// promoteLanes promotes until nothing is staged.
func promoteLanes(t *testing.T, tab *staging.Table[laned]) (rows int) {
	t.Helper()
	for more := true; more; {
		p := promote(t, tab)
		rows, more = rows+p.Rows, p.More
	}
	return rows
}

// laneCount counts the batches in the registries of a lane.
func laneCount(t *testing.T, pool *pgxpool.Pool, tab *staging.Table[laned], lane int) int {
	t.Helper()
	_, registry := tab.Staging()
	return query[int](t, pool, fmt.Sprintf("SELECT (SELECT count(*) FROM %s) + (SELECT count(*) FROM %s)", registry[2*lane-2], registry[2*lane-1]))
}

// The number of lanes grows while programs run. Programs of before go on staging, and do not
// promote: they would not find the batches of the new lanes.
func TestLanesGrow(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, lanedTable)
	cfg := staging.Config[laned]{Key: []string{"id"}}
	before := newTable(t, pool, "laned", cfg)
	if n := before.Lanes(); n != 1 {
		t.Fatalf("%d lanes, want 1", n)
	}
	stage(t, before, load(laned{ID: "before"}), staging.OutcomeStaged)
	cfg.Lanes = 2
	grown := newTable(t, pool, "laned", cfg)
	batches := inLanes(t, grown, "grown")
	stage(t, before, load(laned{ID: "after"}), staging.OutcomeStaged)
	_, err := before.Promote(t.Context(), staging.PromoteOptions{})
	isDrift(t, "Promote of a program of before", err, "2 lanes", "started with 1")
	_, err = before.Fates(t.Context(), batches)
	isDrift(t, "Fates of a program of before", err, "2 lanes", "started with 1")
	if got := fates(t, grown, batches...); slices.ContainsFunc(got, func(f staging.Fate) bool { return f != staging.FateStaged }) {
		t.Errorf("fates: %v, want staged", got)
	}
	if rows := promoteLanes(t, grown); rows != len(batches)+2 {
		t.Errorf("%d rows, want %d", rows, len(batches)+2)
	}

	cfg.Lanes = 0
	same := newTable(t, pool, "laned", cfg)
	more := inLanes(t, same, "same") // into both
	cfg.Lanes = 1
	fewer := newTable(t, pool, "laned", cfg)
	second := laneCount(t, pool, fewer, 2)
	for i := range 10 {
		stage(t, fewer, load(laned{ID: fmt.Sprintf("fewer%d", i)}), staging.OutcomeStaged)
	}
	if n := laneCount(t, pool, fewer, 2); n != second || fewer.Lanes() != 2 {
		t.Errorf("%d batches in the second of %d lanes, want %d of 2", n, fewer.Lanes(), second)
	}
	if rows := promoteLanes(t, fewer); rows != len(more)+10 {
		t.Errorf("%d rows, want %d", rows, len(more)+10)
	}
	balanced(t, fewer)
}

// The ids of one queue end in the same bits. Its batches come into all lanes all the same, into
// each about as many.
func TestLanesGetEqualWork(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, lanedTable)
	tab := newTable(t, pool, "laned", staging.Config[laned]{Lanes: 3})
	for _, id := range []func() string{uid.New, func() string { return uid.NewTagged(0) }, func() string { return uid.NewTagged(12182) }} {
		var got [4]int
		for range 3000 {
			got[tab.LaneOf(id())]++
		}
		if got[0] != 0 || slices.Min(got[1:]) < 850 {
			t.Errorf("%v batches by lane, want about 1000 in each of three", got[1:])
		}
	}
}

// What reads the staging tables reads those of all lanes.
func TestEveryLaneIsRead(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, lanedTable)
	tab := newTable(t, pool, "laned", staging.Config[laned]{Key: []string{"id"}, Lanes: 3})
	var ids []string
	for i := range 12 {
		l := load(laned{ID: fmt.Sprintf("a%d", i)})
		stage(t, tab, l, staging.OutcomeStaged)
		stage(t, tab, l, staging.OutcomeAlreadyStaged)
		ids = append(ids, l.Batch.ID)
	}
	if s, err := tab.Stats(t.Context()); err != nil || s.Batches != 12 || s.Rows != 12 {
		t.Errorf("Stats: %+v, %v, want 12 batches", s, err)
	}
	if f, err := tab.FindBatches(t.Context(), ids...); err != nil || len(f.Batches) != 12 || f.Batches[11].Fate != staging.FateStaged {
		t.Errorf("FindBatches: %+v, %v, want 12 batches", f, err)
	}
	epoch := must(tab.Epoch(t.Context()))
	discarded, err := staging.DiscardStaged(t.Context(), pool, "laned")
	slices.Sort(discarded)
	if err != nil || !slices.Equal(discarded, slices.Sorted(slices.Values(ids))) {
		t.Errorf("DiscardStaged: %v, %v, want %v", discarded, err, ids)
	}
	if got := fates(t, tab, ids...); slices.ContainsFunc(got, func(f staging.Fate) bool { return f != staging.FateUnknown }) {
		t.Errorf("fates: %v, want unknown", got)
	}
	if e := must(tab.Epoch(t.Context())); e == epoch {
		t.Error("the epoch is the same")
	}
}

// The success of one lane does not hide that another fails.
func TestAFailingLaneStaysVisible(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}, Conflict: staging.ConflictFail})
	exec(t, x.pool, "INSERT INTO laned VALUES ('a', 0, 0)")
	stage(t, x.both, x.loadOf(1, laned{ID: "a"}), staging.OutcomeStaged)
	stage(t, x.both, x.loadOf(2, laned{ID: "b"}), staging.OutcomeStaged)
	if _, err := x.both.Promote(t.Context(), staging.PromoteOptions{Lane: 1}); !errors.Is(err, staging.ErrConflict) {
		t.Fatalf("got %v, want ErrConflict", err)
	}
	if p, err := x.both.Promote(t.Context(), staging.PromoteOptions{Lane: 2}); err != nil || p.Rows != 1 {
		t.Fatalf("got %+v, %v, want a row", p, err)
	}
	if s, err := x.both.Stats(t.Context()); err != nil || !errors.Is(s.Stuck(), staging.ErrStuck) {
		t.Errorf("got %v, %v, want ErrStuck", s.Stuck(), err)
	}
	exec(t, x.pool, "DELETE FROM laned WHERE id = 'a'")
	promoteLanes(t, x.both)
	if s, err := x.both.Stats(t.Context()); err != nil || s.Stuck() != nil {
		t.Errorf("got %v, %v, want nil", s.Stuck(), err)
	}
}

// A target that cannot have lanes is refused, with the name of the field and both numbers.
func TestLanesThatCannotBe(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, lanedTable+"CREATE TABLE tree (id text PRIMARY KEY, n bigint NOT NULL, rank bigint NOT NULL, up text CONSTRAINT tree_up REFERENCES tree); CREATE TABLE other (LIKE laned INCLUDING ALL)")
	key := []string{"id"}
	for _, c := range []struct {
		target string
		cfg    staging.Config[laned]
		want   []string
	}{
		{"laned", staging.Config[laned]{Lanes: -1}, []string{"Config.Lanes is -1", "0 to 16"}},
		{"laned", staging.Config[laned]{Lanes: 17}, []string{"Config.Lanes is 17", "0 to 16"}},
		{"laned", staging.Config[laned]{Lanes: 2, Key: key, Conflict: staging.ConflictReplace}, []string{"2 lanes", "Config.Newer"}},
		{"tree", staging.Config[laned]{Lanes: 2, Key: key}, []string{"2 lanes", "tree_up"}},
	} {
		_, err := staging.New(t.Context(), pool, c.target, c.cfg)
		if !errors.Is(err, staging.ErrConfig) {
			t.Errorf("%+v: got %v, want ErrConfig", c.cfg, err)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("got %q, want %q in it", err, part)
			}
		}
	}
	if n := query[int](t, pool, "SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_a2'"); n != 0 {
		t.Errorf("%d tables of a second lane were created", n)
	}
	two := newTable(t, pool, "laned", staging.Config[laned]{Lanes: 2, Key: key})
	one := newTable(t, pool, "other", staging.Config[laned]{Key: key})
	rows := func(l laned) []laned { return []laned{l} }
	group := staging.Group(staging.Into(one, rows), staging.Into(two, rows))
	if err := group.Check(t.Context()); !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), "2 lanes (Config.Lanes), must have 1") {
		t.Errorf("Group: got %v, want ErrConfig with the number of lanes", err)
	}
	for _, lane := range []int{-1, 3} {
		if _, err := two.Promote(t.Context(), staging.PromoteOptions{Lane: lane}); !errors.Is(err, staging.ErrConfig) {
			t.Errorf("lane %d: got %v, want ErrConfig", lane, err)
		}
	}
}

// The schema of a migration tool has the tables of all lanes, and each role its privileges on them.
func TestSchemaOfLanes(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, lanedTable)
	cfg := staging.Config[laned]{Key: []string{"id"}, Lanes: 2, NoCreate: true}
	if _, err := staging.New(t.Context(), pool, "laned", cfg); !errors.Is(err, staging.ErrMissing) || !strings.Contains(err.Error(), "laned_registry_b2") {
		t.Errorf("got %v, want ErrMissing with the tables of the second lane", err)
	}
	for range 2 { // each statement may run again
		exec(t, pool, must(staging.SQL(t.Context(), pool, "laned", cfg)))
	}
	tab := newTable(t, pool, "laned", cfg)
	if sql := must(staging.SQL(t.Context(), pool, "laned", staging.Config[laned]{Key: []string{"id"}})); !strings.Contains(sql, "laned_registry_b2") || !strings.Contains(sql, "SET open = rpad") {
		t.Errorf("the schema without a number of lanes lacks those that are there:\n%s", sql)
	}
	ids := inLanes(t, tab, "a")
	if rows := promoteLanes(t, tab); rows != len(ids) {
		t.Errorf("%d rows, want %d", rows, len(ids))
	}
	if open := query[string](t, pool, "SELECT open FROM laned_control"); len(open) != 2 {
		t.Errorf("open sides are %q, want two", open)
	}
	for role, want := range map[staging.Role]string{
		staging.RoleWorker:   `GRANT INSERT ON TABLE "public"."laned_staging_b2" TO "x"`,
		staging.RolePromoter: `GRANT SELECT, UPDATE, DELETE, TRUNCATE ON TABLE "public"."laned_staging_a2" TO "x"`,
		staging.RoleReader:   `GRANT SELECT ON TABLE "public"."laned_registry_a2" TO "x"`,
	} {
		cfg.Role = role
		if got := must(staging.Grants(t.Context(), pool, "laned", cfg, "x")); !strings.Contains(got, want) {
			t.Errorf("%v: %s\nlacks %s", role, got, want)
		}
	}
}
