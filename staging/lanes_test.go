package staging_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/headrace/headrace/staging"
)

// Two promotions at once in two lanes wait for each other in one order, whatever they wait for. In
// each case they meet the same things in opposite orders of arrival, and a transaction of the test
// keeps both from going on until they have all that they can get. Promotions that took things in
// the order of arrival would then wait in a circle.
func TestLanesWaitInOneOrder(t *testing.T) {
	t.Parallel()
	const n = 40
	middle := fmt.Sprintf("k%04d", n/2)
	insertMiddle := "INSERT INTO laned VALUES ('" + middle + "', 0, 0)"
	otherRanks := keys(n, false)
	for i := range otherRanks {
		otherRanks[i] = laned{ID: fmt.Sprintf("m%04d", i), N: 1, Rank: int64(n - 1 - i)}
	}
	for _, c := range []struct {
		name, ddl, hold string
		cfg             staging.Config[laned]
		second          []laned // of the second lane; nil: the keys of the first, backwards
	}{
		{"keys of rows that are skipped", lanedTable, insertMiddle, staging.Config[laned]{Key: []string{"id"}}, nil},
		{"keys of rows that replace", lanedTable, insertMiddle, staging.Config[laned]{Key: []string{"id"}, Conflict: staging.ConflictReplace, Newer: "rank"}, nil},
		{"keys and groups", lanedTable + sumsTable, insertMiddle, staging.Config[laned]{Key: []string{"id"}, Merges: []staging.Merge{sumsMerge}}, nil},
		{"keys of pieces", lanedTable + refusingTrigger, insertMiddle, staging.Config[laned]{Key: []string{"id"}}, nil},
		{"keys and groups of pieces", lanedTable + sumsTable + refusingTrigger, insertMiddle, staging.Config[laned]{Key: []string{"id"}, Merges: []staging.Merge{sumsMerge}}, nil},
		{"another unique index", lanedTable + "CREATE UNIQUE INDEX ON laned (rank)", "INSERT INTO laned VALUES ('x', 0, 20)", staging.Config[laned]{Key: []string{"id"}}, otherRanks},
		{"a unique index without a key", lanedTable, insertMiddle, staging.Config[laned]{}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := openLanes(t, c.ddl, c.cfg)
			stage(t, x.both, x.loadOf(1, keys(n, false)...), staging.OutcomeStaged)
			if c.second == nil {
				c.second = keys(n, true)
			}
			stage(t, x.both, x.loadOf(2, c.second...), staging.OutcomeStaged)
			x.both.SetParts(1, 4, true)
			release := x.hold(c.hold)
			one := x.promoting(1)
			x.untilWaiting(1)
			two := x.promoting(2)
			x.untilWaiting(2)
			release()
			a, b := (<-one).must(t), (<-two).must(t)
			if a.Rows != n || a.Rows+b.Rows+b.Conflicts+b.RejectedByRule != 2*n {
				t.Errorf("got %+v and %+v, want %d rows and as many that met them", a, b, n)
			}
			if rows := query[int](t, x.pool, "SELECT count(*) FROM laned"); rows != n {
				t.Errorf("%d rows, want %d", rows, n)
			}
			balanced(t, x.both)
			x.noDeadlock()
		})
	}
}

// Batches that are staged in both lanes are promoted by the lane that has their ids first. The
// other lane waits in the order of the ids, and drops the rows.
func TestABatchInTwoLanes(t *testing.T) {
	t.Parallel()
	x := openLanes(t, "CREATE TABLE laned (id text, n bigint NOT NULL, rank bigint NOT NULL);"+sumsTable, staging.Config[laned]{Merges: []staging.Merge{sumsMerge}})
	var loads []staging.Load[laned]
	for i := range 30 {
		loads = append(loads, x.loadOf(2, keys(3+i%3, false)...))
	}
	slices.SortFunc(loads, func(a, b staging.Load[laned]) int {
		if a.Batch.ID < b.Batch.ID {
			return -1
		}
		return 1
	})
	var ids []string
	rows := 0
	for _, l := range loads {
		stage(t, x.narrow, l, staging.OutcomeStaged) // before the lane was there
		ids, rows = append(ids, l.Batch.ID), rows+len(l.Rows)
	}
	for _, l := range slices.Backward(loads) {
		stage(t, x.both, l, staging.OutcomeStaged)
	}
	release := x.hold("INSERT INTO laned_ledger (id, kind, root, root_offset, records, sealed_at) VALUES ($1, 'void', $1, 0, 1, now())", ids[len(ids)/2])
	one := x.promoting(1)
	x.untilWaiting(1)
	two := x.promoting(2)
	x.untilWaiting(2)
	release()
	a, b := (<-one).must(t), (<-two).must(t)
	if a.Rows != rows || b.Rows != 0 || len(a.Batches) != len(ids) || len(b.Batches) != len(ids) {
		t.Errorf("got %+v and %+v, want %d rows and none, and all batches of both", a, b, rows)
	}
	if n := query[int](t, x.pool, "SELECT count(*) FROM laned"); n != rows {
		t.Errorf("%d rows, want %d", n, rows)
	}
	x.allPromoted(ids)
	x.sums()
	balanced(t, x.both)
	x.noDeadlock()
}

// A worker that is stalled blocks its lane only, and a promoter that has no lane of its own takes
// the other one.
func TestAFrozenWorkerBlocksItsLane(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}})
	stage(t, x.both, x.loadOf(1, laned{ID: "a"}), staging.OutcomeStaged)
	frozen, goOn := stopAt(t, x.narrow, "before commit")
	staging1 := background(func() (staging.Outcome, error) { return x.narrow.Stage(t.Context(), x.loadOf(1, laned{ID: "b"})) })
	<-frozen
	blocked := x.promoting(1)
	untilTrue(t, x.pool, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LOCK TABLE%ACCESS EXCLUSIVE%' AND wait_event_type = 'Lock')")
	for i := range 5 {
		stage(t, x.both, x.loadOf(2, laned{ID: fmt.Sprintf("c%d", i)}), staging.OutcomeStaged)
		if p := promote(t, x.both); p.Rows != 1 {
			t.Errorf("got %+v, want the row of the other lane", p)
		}
	}
	goOn()
	(<-staging1).must(t)
	if p := (<-blocked).must(t); p.Rows != 2 {
		t.Errorf("got %+v, want the two rows of the lane", p)
	}
}
