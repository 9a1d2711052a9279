package staging_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// never does not come to an end with some values, until something cancels it. It does so itself:
// the test need not wait.
const never = `CREATE FUNCTION never(n bigint) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	IF n IN (5, 16) THEN PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(600); END IF; RETURN true; END $$;
	CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM never(NEW.n); RETURN NEW; END $$;
	CREATE TABLE items (id text PRIMARY KEY, n bigint, note text, at timestamptz);`

// cutOff promotes until something else happens than that the promotion takes too long.
func cutOff[T any](t *testing.T, tab *staging.Table[T]) (staging.PromoteResult, error) {
	t.Helper()
	for range 10 {
		p, err := tab.Promote(t.Context(), staging.PromoteOptions{})
		if err == nil || !strings.Contains(err.Error(), "took too long") {
			return p, err
		}
	}
	t.Fatal("every promotion takes too long")
	return staging.PromoteResult{}, nil
}

func rejectedIDs(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), "SELECT key || ' ' || code FROM items_rejects ORDER BY key")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// A record on which the server works for ever costs itself, wherever the server meets it.
func TestARecordThatTakesForEver(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ddl string
		cfg staging.Config[item]
	}{
		"trigger before":   {ddl: "CREATE TRIGGER tr BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION tr()"},
		"trigger after":    {ddl: "CREATE TRIGGER tr AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION tr()"},
		"trigger deferred": {ddl: "CREATE CONSTRAINT TRIGGER tr AFTER INSERT ON items DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tr()"},
		"check":            {ddl: "ALTER TABLE items ADD CHECK (never(n))"},
		"index":            {ddl: "CREATE INDEX ON items (never(n))"},
		"generated column": {ddl: "ALTER TABLE items ADD g bool GENERATED ALWAYS AS (never(n)) STORED"},
		"without a key":    {ddl: "ALTER TABLE items DROP CONSTRAINT items_pkey; ALTER TABLE items ADD CHECK (never(n))", cfg: staging.Config[item]{ID: "id"}},
		"drops other rows": {ddl: `CREATE FUNCTION drops() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.n = 7 THEN RETURN NULL; END IF; PERFORM never(NEW.n); RETURN NEW; END $$;
			CREATE TRIGGER tr BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION drops()`},
		"its parent comes later": {ddl: "ALTER TABLE items ADD FOREIGN KEY (note) REFERENCES items; ALTER TABLE items ADD CHECK (never(n))"},
		"rule":                   {cfg: staging.Config[item]{Key: []string{"id"}, Rules: []staging.Rule{{Code: "never", Reason: "it ends", Where: "NOT never(n)"}}}},
		"replaces":               {ddl: "ALTER TABLE items ADD CHECK (never(n))", cfg: staging.Config[item]{Key: []string{"id"}, Conflict: staging.ConflictReplace}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, never+c.ddl)
			cfg := c.cfg
			if cfg.ID == "" {
				cfg.Key = []string{"id"}
			}
			tab := newTable(t, pool, "items", cfg)
			rows := items("a", 40)
			if strings.HasPrefix(name, "its parent") {
				for i := range 7 { // another one is slow
					rows[i].Note = &rows[14-i].ID
				}
			}
			want := []string{"a-0005 sqlstate_57014", "a-0016 sqlstate_57014"}
			if name == "drops other rows" {
				want = slices.Insert(want, 1, "a-0007 "+staging.CodeSuppressed)
			}
			stage(t, tab, load(rows[:15]...), staging.OutcomeStaged)
			stage(t, tab, load(rows[15:]...), staging.OutcomeStaged)
			for n := 0; n < 40; {
				p, err := cutOff(t, tab)
				if err != nil {
					t.Fatal(err)
				}
				n += p.Records
			}
			if diff := cmp.Diff(want, rejectedIDs(t, pool)); diff != "" {
				t.Error(diff)
			}
			count(t, pool, 40-len(want))
			balanced(t, tab)
			// The next ones are found at once.
			stage(t, tab, load(append(items("b", 20)[3:12], items("c", 2)...)...), staging.OutcomeStaged)
			if p := promote(t, tab); p.RejectedByRule != len(want)-1 || p.Records != 11 {
				t.Errorf("got %d records, %d rejected; want 11, %d", p.Records, p.RejectedByRule, len(want)-1)
			}
		})
	}
}

// The server ends what takes too long. The time of the promotion is not used up.
func TestARecordThatReachesTheLimit(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE FUNCTION loops(n bigint) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN WHILE n = 5 LOOP NULL; END LOOP; RETURN true; END $$;
		CREATE TABLE items (id text PRIMARY KEY, n bigint CHECK (loops(n)), note text, at timestamptz)`)
	tab := newTable(t, pool, "items", staging.Config[item]{Key: []string{"id"}})
	stage(t, tab, load(items("a", 9)...), staging.OutcomeStaged)
	tab.SearchSlow()
	if _, err := tab.Promote(t.Context(), staging.PromoteOptions{Timeout: 24 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a-0005 sqlstate_57014"}, rejectedIDs(t, pool)); diff != "" {
		t.Error(diff)
	}
	if reason := query[string](t, pool, "SELECT reason FROM items_rejects"); !strings.Contains(reason, "this record alone, tried twice for up to 3s") {
		t.Errorf("the reason is %q", reason)
	}
	count(t, pool, 8)
}

// Where every record is slow, the surroundings are: nothing is rejected.
func TestEveryRecordTakesForEver(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 50} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, never+"CREATE TRIGGER tr BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION tr()")
			tab := newTable(t, pool, "items", staging.Config[item]{Key: []string{"id"}})
			rows := items("a", n)
			for i := range rows {
				rows[i].N = 5
			}
			stage(t, tab, load(rows...), staging.OutcomeStaged)
			for range 2 {
				if _, err := cutOff(t, tab); err == nil || !strings.Contains(err.Error(), "every record takes too long") {
					t.Fatalf("got error %v", err)
				}
			}
			count(t, pool, 0)
			exec(t, pool, "DROP TRIGGER tr ON items")
			promote(t, tab)
			count(t, pool, n)
			if got := rejectedIDs(t, pool); len(got) > 0 {
				t.Errorf("rejected %v", got)
			}
		})
	}
}

// A merge that does not end is no fault of the rows that it reads.
func TestAMergeThatTakesForEver(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, never+"CREATE TABLE sums (n bigint)")
	tab := newTable(t, pool, "items", staging.Config[item]{Key: []string{"id"}, Merges: []staging.Merge{
		{Name: "good", SQL: "INSERT INTO sums SELECT n FROM promoted"},
		{Name: "slow", SQL: "INSERT INTO sums SELECT n FROM promoted WHERE never(n)"},
	}})
	stage(t, tab, load(items("a", 20)...), staging.OutcomeStaged)
	for range 2 {
		if _, err := cutOff(t, tab); !errors.Is(err, staging.ErrMerge) || !strings.Contains(err.Error(), `merge "slow"`) {
			t.Fatalf("got %v, want ErrMerge that names the merge", err)
		}
	}
	count(t, pool, 0)
	if got := rejectedIDs(t, pool); len(got) > 0 {
		t.Errorf("rejected %v", got)
	}
}

// A record that waits for another transaction is not slow.
func TestARecordThatWaitsForALock(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE items (id text PRIMARY KEY, n bigint, note text, at timestamptz)")
	tab := newTable(t, pool, "items", staging.Config[item]{Key: []string{"id"}})
	stage(t, tab, load(items("a", 20)...), staging.OutcomeStaged)
	other, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(t.Context(), "INSERT INTO items (id) VALUES ('a-0005')"); err != nil {
		t.Fatal(err)
	}
	tab.SearchSlow()
	if _, err := tab.Promote(t.Context(), staging.PromoteOptions{Timeout: 16 * time.Second}); !errors.Is(err, staging.ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	if err := other.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	promote(t, tab)
	count(t, pool, 20)
	if got := rejectedIDs(t, pool); len(got) > 0 {
		t.Errorf("rejected %v", got)
	}
}

// In a group such a record goes with all of its rows.
func TestARecordOfAGroupThatTakesForEver(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables+`; CREATE FUNCTION never(n bigint) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
		IF n = 77 THEN PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(600); END IF; RETURN true; END $$;
		ALTER TABLE lines ADD CHECK (never(n))`)
	s := openSales(t, pool)
	bad := goodSale("bad", 3)
	bad.Lines[1].N = 77
	stageGroup(t, s.TableGroup, salesLoad(goodSale("a", 2), bad, goodSale("c", 1)), staging.OutcomeStaged)
	for try := 0; ; try++ {
		_, err := s.Promote(t.Context(), staging.PromoteOptions{})
		if err == nil {
			break
		}
		if try > 5 || !strings.Contains(err.Error(), "took too long") {
			t.Fatal(err)
		}
	}
	for table, want := range map[string]int{"heads": 2, "lines": 3, "notes": 2} {
		if got := query[int](t, pool, "SELECT count(*) FROM "+table); got != want {
			t.Errorf("%s has %d rows, want %d", table, got, want)
		}
	}
	if got := openRejects(t, s); !cmp.Equal(got, map[string]int{"heads": 1, "lines": 3, "notes": 1}) {
		t.Errorf("got open rejects %v", got)
	}
}
