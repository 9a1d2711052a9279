package staging_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// slowDomain has a check that does not come to an end with some values, until something cancels it.
// It does so itself: the test need not wait.
const slowDomain = `CREATE FUNCTION never(n bigint) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	IF n IN (5, 16, 77) THEN PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(600); END IF; RETURN true; END $$;
	CREATE DOMAIN slow AS bigint CHECK (never(VALUE));`

const slowItems = slowDomain + "CREATE TABLE items (id text PRIMARY KEY, n slow, note text, at timestamptz)"

// cutOffTwice is a load whose COPY was cut off before.
func cutOffTwice(tab interface{ SetCutOff(string, int) }, rows ...item) staging.Load[item] {
	l := load(rows...)
	tab.SetCutOff(l.Batch.ID, 2)
	return l
}

// A record on which the COPY of its batch never ends costs itself.
func TestARecordThatIsCopiedForEver(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, slowItems)
	tab := newTable(t, pool, "items", staging.Config[item]{Key: []string{"id"}})
	stage(t, tab, cutOffTwice(tab, items("a", 40)...), staging.OutcomeStaged)
	if p := promote(t, tab); p.Records != 40 || p.Rows != 38 {
		t.Errorf("got %d records, %d rows; want 40, 38", p.Records, p.Rows)
	}
	if diff := cmp.Diff([]string{"a-0005 sqlstate_57014", "a-0016 sqlstate_57014"}, rejectedIDs(t, pool)); diff != "" {
		t.Error(diff)
	}
	if reason := query[string](t, pool, "SELECT min(reason) FROM items_rejects"); !strings.Contains(reason, "this record alone, copied twice for up to 2s") {
		t.Errorf("the reason is %q", reason)
	}
	count(t, pool, 38)
	balanced(t, tab)

	// A batch of nothing else is rejected too, as others were staged meanwhile.
	l := cutOffTwice(tab, items("b", 6)[5])
	stage(t, tab, load(items("c", 1)...), staging.OutcomeStaged)
	stage(t, tab, l, staging.OutcomeStaged)
	promote(t, tab)
	count(t, pool, 39)
	balanced(t, tab)
}

// Where every record is slow, the surroundings are: nothing is rejected.
func TestEveryRecordIsCopiedForEver(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, slowItems)
	tab := newTable(t, pool, "items", staging.Config[item]{Key: []string{"id"}})
	for _, n := range []int{1, 40} {
		rows := items("a", n)
		for i := range rows {
			rows[i].N = 5
		}
		l := cutOffTwice(tab, rows...)
		if _, err := tab.Stage(t.Context(), l); err == nil || !strings.Contains(err.Error(), "every record takes too long") {
			t.Errorf("%d records: got error %v", n, err)
		}
		if got := tab.CutOffs(l.Batch.ID); got != 3 {
			t.Errorf("%d records: cut off %d times, want 3: the next attempt takes all of its time for one COPY", n, got)
		}
	}
}

// The server ends a COPY soon after its program has given up: it holds a lock that promotions wait
// for. The batch is copied with a limit from the third time on.
func TestTheCallersDeadlineEndsTheCopy(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, strings.Replace(slowItems, "PERFORM pg_cancel_backend(pg_backend_pid());", "", 1))
	tab := newTable(t, pool, "items", staging.Config[item]{Key: []string{"id"}})
	l := load(items("a", 10)...)
	for n := range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if _, err := tab.Stage(ctx, l); err == nil {
			t.Error("a COPY that does not end was staged")
		}
		cancel()
		if got := tab.CutOffs(l.Batch.ID); got > n+1 {
			t.Errorf("cut off %d times, want at most %d", got, n+1)
		}
		untilTrue(t, pool, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY%' AND state = 'active')")
	}
	tab.SetCutOff(l.Batch.ID, 2) // a busy machine may not come to the COPY in time
	ctx, cancel := context.WithTimeout(t.Context(), 8500*time.Millisecond)
	defer cancel()
	if _, err := tab.Stage(ctx, l); err != nil {
		t.Fatal(err)
	}
	promote(t, tab)
	if diff := cmp.Diff([]string{"a-0005 sqlstate_57014"}, rejectedIDs(t, pool)); diff != "" {
		t.Error(diff)
	}
	count(t, pool, 9)
	balanced(t, tab)
}

// In a group such a record goes with all of its rows.
func TestARecordOfAGroupThatIsCopiedForEver(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, slowDomain+salesTables+"; ALTER TABLE lines ALTER n TYPE slow")
	s := openSales(t, pool)
	bad := goodSale("bad", 3)
	bad.Lines[1].N = 77
	l := salesLoad(goodSale("a", 2), bad, goodSale("c", 1))
	s.SetCutOff(l.Batch.ID, 2)
	stageGroup(t, s.TableGroup, l, staging.OutcomeStaged)
	if _, err := s.Promote(t.Context(), staging.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	for table, want := range map[string]int{"heads": 2, "lines": 3, "notes": 2} {
		if got := query[int](t, pool, "SELECT count(*) FROM "+table); got != want {
			t.Errorf("%s has %d rows, want %d", table, got, want)
		}
	}
	if got := openRejects(t, s); !cmp.Equal(got, map[string]int{"lines": 1}) { // the leader
		t.Errorf("got open rejects %v", got)
	}
}
