package staging_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/headrace/headrace/staging"
)

// points records the points that the programs reach.
func (x *lanes) points() (reached func() []string) {
	var mu sync.Mutex
	var all []string
	x.both.SetHook(func(point string) error {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, point)
		return nil
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

const turnLock = "(hashtext('headrace.staging.turn'), 'laned'::regclass::oid::int8::bit(32)::int4)"

// A promotion that cannot keep the order of keys takes the turn alone. One that can does not.
func TestWhoTakesTheTurnAlone(t *testing.T) {
	t.Parallel()
	const checked = lanedTable + "ALTER TABLE laned ADD CHECK (n >= 0);"
	then := sumsMerge
	then.Then = "SELECT 1"
	one := []laned{{ID: "b", N: 1}, {ID: "a", N: 2}}
	for _, c := range []struct {
		name, ddl string
		merges    []staging.Merge
		pos       []int32
		alone     bool
	}{
		{"plain rows", lanedTable, nil, nil, false},
		{"a constraint", checked, nil, nil, false},
		{"records of several rows", lanedTable, nil, []int32{0, 0}, false},
		{"records of several rows and a constraint", checked, nil, []int32{0, 0}, true},
		{"a merge", lanedTable + sumsTable, []staging.Merge{sumsMerge}, nil, false},
		{"a merge with a statement after it", lanedTable + sumsTable, []staging.Merge{then}, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := openLanes(t, c.ddl, staging.Config[laned]{Key: []string{"id"}, Merges: c.merges})
			l := x.loadOf(1, one...)
			if c.pos != nil {
				l.Pos, l.Batch.Records = c.pos, 1
			}
			stage(t, x.both, l, staging.OutcomeStaged)
			reached := x.points()
			if p := promote(t, x.both); p.Rows != len(one) {
				t.Errorf("got %+v, want %d rows", p, len(one))
			}
			if got := slices.Contains(reached(), "turn alone"); got != c.alone {
				t.Errorf("turn alone: %v, want %v; points: %v", got, c.alone, reached())
			}
		})
	}
}

// A promotion waits for one that has the turn alone.
func TestTheTurnIsShared(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}})
	stage(t, x.both, x.loadOf(1, keys(3, false)...), staging.OutcomeStaged)
	release := x.hold("SELECT pg_advisory_xact_lock" + turnLock)
	one := x.promoting(1)
	untilTrue(t, x.pool, "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))")
	release()
	if p := (<-one).must(t); p.Rows != 3 {
		t.Errorf("got %+v, want 3 rows", p)
	}
}

// Two promotions whose statement is refused give up their shares of the turn with what they have
// written, before either asks for the turn alone.
func TestTheShareIsGivenUp(t *testing.T) {
	t.Parallel()
	const n = 10
	// Only the insert finds out about a foreign key with MATCH FULL.
	x := openLanes(t, lanedTable+`CREATE TABLE parents AS SELECT n::bigint FROM generate_series(0, 9) n; ALTER TABLE parents ADD PRIMARY KEY (n);
		ALTER TABLE laned ADD FOREIGN KEY (n) REFERENCES parents MATCH FULL`, staging.Config[laned]{Key: []string{"id"}})
	bad := laned{ID: "z", N: -1}
	stage(t, x.both, x.loadOf(1, append(keys(n, false), bad)...), staging.OutcomeStaged)
	stage(t, x.both, x.loadOf(2, append(keys(n, true), bad)...), staging.OutcomeStaged)
	release := x.hold("INSERT INTO laned VALUES ('k0005', 0, 0)")
	one := x.promoting(1)
	x.untilWaiting(1)
	two := x.promoting(2)
	x.untilWaiting(2)
	release()
	a, b := (<-one).must(t), (<-two).must(t)
	if a.Rows+b.Rows != n || a.Conflicts+b.Conflicts != n || a.RejectedByRule != 1 || b.RejectedByRule != 1 {
		t.Errorf("got %+v and %+v, want %d rows, as many conflicts, and a reject each", a, b, n)
	}
	balanced(t, x.both)
	x.noDeadlock()
}

// A key that another transaction commits while the insert waits for it is left to that one. The
// promotion does not fall back to pieces.
func TestAKeyIsLeftToAnotherLane(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}})
	stage(t, x.both, x.loadOf(1, keys(5, false)...), staging.OutcomeStaged)
	tx, err := x.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "INSERT INTO laned VALUES ('k0002', 0, 0)"); err != nil {
		t.Fatal(err)
	}
	reached := x.points()
	one := x.promoting(1)
	x.untilWaiting(1)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := (<-one).must(t); p.Rows != 4 || p.Conflicts != 1 {
		t.Errorf("got %+v, want 4 rows and a conflict", p)
	}
	got := reached()
	if !slices.Contains(got, "yielding") || slices.Contains(got, "turn alone") || slices.Contains(got, "in parts") {
		t.Errorf("points: %v, want yielding, and neither turn alone nor in parts", got)
	}
	balanced(t, x.both)
}
