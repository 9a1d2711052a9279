package staging_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// What the stages of a chain dropped is summed over the promoted batches, in the order of the
// stages. Batches that are staged, void or of an older layout are not in it.
func TestStageCounts(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := newTable(t, pool, "items", staging.Config[item]{Create: true, Key: []string{"id"}})
	const odd = "a b;c → \x00é%"
	staged := func(id string, dups, filtered, rejected int) staging.Load[item] {
		l := load(items(id, 2)...)
		l.Batch.Records, l.Duplicates, l.Filtered = 2+dups+filtered+rejected, dups, filtered
		for i := range rejected {
			l.Rejects = append(l.Rejects, staging.Reject{Pos: int32(2 + i), Code: "bad", Payload: []byte("x")})
		}
		l.Stages = []staging.StageDrops{{Stage: "decode", Rejected: rejected}, {Stage: odd, Duplicates: dups}, {Stage: "wanted", Filtered: filtered}, {Stage: "last"}}
		stage(t, tab, l, staging.OutcomeStaged)
		return l
	}
	empty := func(since time.Time) {
		t.Helper()
		if got, err := tab.StageCounts(t.Context(), since); err != nil || len(got) != 0 {
			t.Errorf("got %+v, %v, want nothing", got, err)
		}
	}
	for i, id := range []string{"a", "b", "c", "d"} {
		staged(id, 3, i, 1)
	}
	if f, err := tab.Void(t.Context(), staged("void", 9, 9, 9).Batch); err != nil || f != staging.FateVoid {
		t.Fatal(f, err)
	}
	stage(t, tab, load(items("without", 2)...), staging.OutcomeStaged)
	empty(time.Time{})
	promote(t, tab)
	got, err := tab.StageCounts(t.Context(), time.Time{})
	want := []staging.StageCount{ // 4 batches of 6 to 9 records
		{Stage: "decode", Entered: 30, Rejected: 4}, {Stage: odd, Entered: 26, Duplicates: 12}, {Stage: "wanted", Entered: 14, Filtered: 6}, {Stage: "last", Entered: 8},
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	if n := got[3].Passed(); n != 8 {
		t.Errorf("got %d records that the last stage passed on, want 8", n)
	}
	now, err := tab.Clock(t.Context())
	if err != nil || now.Sub(query[time.Time](t, pool, "SELECT max(committed_at) FROM items_ledger")) < 0 {
		t.Errorf("got the time %v, %v, want one after the last commit", now, err)
	}
	empty(now)
	ledger, err := staging.OpenLedger(t.Context(), pool, "items")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ledger.StageCounts(t.Context(), time.Time{}); err != nil || !cmp.Equal(got, want) {
		t.Errorf("by the name of the target: got %+v, %v, want the same", got, err)
	}
	exec(t, pool, "UPDATE items_ledger SET stages = NULL")
	empty(time.Time{})
	bad := load(items("e", 1)...)
	bad.Stages = []staging.StageDrops{{Stage: "x", Filtered: -1}}
	if _, err := tab.Stage(t.Context(), bad); !errors.Is(err, staging.ErrLoad) {
		t.Errorf("a negative count: got %v, want ErrLoad", err)
	}
}
