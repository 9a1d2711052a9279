package staging_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

const endsSession = `CREATE TABLE items (id text PRIMARY KEY, n bigint CHECK (n <> 7), note text, at timestamptz);
	CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.n IN (5, 16) THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(600); END IF; RETURN NEW; END $$;`

// A record with which the server ends the session costs itself.
func TestARecordThatEndsTheSession(t *testing.T) {
	t.Parallel()
	rule := staging.Rule{Code: "ended", Where: "ends(n) OR n = 9"}
	for name, ddl := range map[string]string{
		"rule": `CREATE FUNCTION ends(n bigint) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
			IF n IN (5, 16) THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(600); END IF; RETURN false; END $$`,
		"trigger before":   "CREATE TRIGGER tr BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION tr()",
		"trigger deferred": "CREATE CONSTRAINT TRIGGER tr AFTER INSERT ON items DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tr()",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, endsSession+ddl)
			cfg, want, left := staging.Config[item]{Key: []string{"id"}}, []string{"a-0005 sqlstate_57P01", "a-0007 sqlstate_23514", "a-0016 sqlstate_57P01"}, 37
			if name == "rule" {
				cfg.Rules = []staging.Rule{rule}
				want, left = slices.Insert(want, 2, "a-0009 ended"), left-1
			}
			tab := newTable(t, pool, "items", cfg)
			rows := items("a", 40)
			stage(t, tab, load(rows[:15]...), staging.OutcomeStaged)
			stage(t, tab, load(rows[15:]...), staging.OutcomeStaged)
			tries := 0
			for ; ; tries++ {
				p, err := tab.Promote(t.Context(), staging.PromoteOptions{})
				if err == nil && len(p.Batches) == 0 {
					break
				}
				if tries > 6 {
					t.Fatalf("promotion %d: %v", tries, err)
				}
			}
			if diff := cmp.Diff(want, rejectedIDs(t, pool)); diff != "" {
				t.Error(diff)
			}
			count(t, pool, left)
			balanced(t, tab)
		})
	}
}

// Where every record ends the session, or someone else does, nothing is rejected.
func TestSessionsThatEndForAnotherReason(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, endsSession+"CREATE TRIGGER tr BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION tr()")
	tab := newTable(t, pool, "items", staging.Config[item]{Key: []string{"id"}})
	rows := items("a", 3)
	for i := range rows {
		rows[i].N = 5
	}
	stage(t, tab, load(rows...), staging.OutcomeStaged)
	for range 4 {
		if p, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err == nil {
			t.Fatalf("promoted %+v", p)
		}
	}
	exec(t, pool, "DROP TRIGGER tr ON items")
	promote(t, tab)
	count(t, pool, 3)

	stage(t, tab, load(items("b", 5)...), staging.OutcomeStaged)
	tab.SetLosses(2) // as after two restarts of the server
	promote(t, tab)
	count(t, pool, 8)
	if n := tab.Losses(); n > 0 {
		t.Errorf("%d losses are remembered after a promotion", n)
	}
	if got := rejectedIDs(t, pool); len(got) > 0 {
		t.Errorf("rejected %v", got)
	}
}

// In a group such a record goes with all of its rows.
func TestARecordOfAGroupThatEndsTheSession(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables+`; CREATE FUNCTION ends() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.id = 'bad' THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(600); END IF; RETURN NEW; END $$;
		CREATE TRIGGER ends BEFORE INSERT ON heads FOR EACH ROW EXECUTE FUNCTION ends()`)
	s := openSales(t, pool)
	stageGroup(t, s.TableGroup, salesLoad(goodSale("a", 2), goodSale("bad", 3), goodSale("c", 1)), staging.OutcomeStaged)
	var errs []error
	for len(errs) < 6 {
		_, err := s.Promote(t.Context(), staging.PromoteOptions{})
		errs = append(errs, err)
		if err == nil {
			break
		}
	}
	if errs[len(errs)-1] != nil {
		t.Fatal(errs)
	}
	if got := openRejects(t, s); !cmp.Equal(got, map[string]int{"heads": 1, "lines": 3, "notes": 1}) {
		t.Errorf("got open rejects %v", got)
	}
	if got := query[int](t, pool, "SELECT count(*) FROM heads"); got != 2 {
		t.Errorf("%d heads, want 2", got)
	}
}
