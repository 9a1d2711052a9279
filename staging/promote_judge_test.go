package staging_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
)

// judged is a row of the tables in this file.
type judged struct {
	ID int64   `db:"id"`
	V  *string `db:"v"`
	N  *int64  `db:"n"`
}

func row(id int64, v string, n int64) judged { return judged{ID: id, V: &v, N: &n} }

// judges runs a test with the judge statement, and with halving alone, as on a server without
// PL/pgSQL. Small parts make few rows enough.
func judges(t *testing.T, f func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged]))) {
	t.Parallel()
	for name, judge := range map[string]bool{"judge": true, "halves": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, servertest.Postgres(t), func(tab *staging.Table[judged]) { tab.SetParts(4, 4, judge) })
		})
	}
}

// codes reads the rejects as key → code.
func codes[T any](t testing.TB, tab *staging.Table[T]) map[string]string {
	t.Helper()
	out := map[string]string{}
	list, err := tab.Rejects(t.Context(), staging.RejectFilter{Limit: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if out[r.Key] != "" {
			t.Errorf("record %s is rejected twice: %s, %s", r.Key, out[r.Key], r.Code)
		}
		if out[r.Key] = r.Code; len(r.Payload) == 0 || r.Reason == "" {
			t.Errorf("reject %s has the reason %q and the payload %q", r.Key, r.Reason, r.Payload)
		}
	}
	return out
}

func idsIn(t testing.TB, pool *pgxpool.Pool, table string) string {
	t.Helper()
	return query[string](t, pool, "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM "+table)
}

const raises = `CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v = 'bad' THEN %s; END IF; RETURN NEW; END $$;
	CREATE TRIGGER tr %s INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr();`

// What a target refuses a row for costs that row, whatever it is. The rows are two batches, so that
// each table is tried with good rows on both sides of a bad one.
func TestTheTargetRefuses(t *testing.T) {
	const plain = "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint);"
	raise := func(code string) string {
		return plain + fmt.Sprintf(raises, "RAISE EXCEPTION 'no' USING ERRCODE = '"+code+"'", "BEFORE")
	}
	bad := func() []judged {
		return []judged{row(1, "good", 1), row(2, "bad", 2), row(3, "good", 3), row(4, "bad", 4), row(5, "good", 5)}
	}
	for name, c := range map[string]struct {
		ddl      string
		rows     []judged
		promoted string
		code     string
		setup    func(t *testing.T, pool *pgxpool.Pool)
	}{
		"NOT NULL":              {"CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint NOT NULL)", []judged{row(1, "", 1), {ID: 2}, row(3, "", 3)}, "1 3", "23502", nil},
		"CHECK":                 {plain + "ALTER TABLE rows ADD CHECK (v <> 'bad')", bad(), "1 3 5", "23514", nil},
		"CHECK that raises":     {plain + "ALTER TABLE rows ADD CHECK (10 / (n - 2) > -100 AND 10 / (n - 4) > -100)", bad(), "1 3 5", "22012", nil},
		"CHECK without columns": {plain + "ALTER TABLE rows ADD CHECK (rows IS DISTINCT FROM (2, 'bad', 2)::rows AND rows IS DISTINCT FROM (4, 'bad', 4)::rows)", bad(), "1 3 5", "23514", nil},
		"CHECK added later": {plain, bad(), "1 3 5", "23514", func(t *testing.T, pool *pgxpool.Pool) {
			exec(t, pool, "ALTER TABLE rows ADD CHECK (v <> 'bad') NOT VALID")
		}},
		"foreign key":                     {"CREATE TABLE parents (n bigint PRIMARY KEY); INSERT INTO parents VALUES (1), (3), (5);" + plain + "ALTER TABLE rows ADD FOREIGN KEY (n) REFERENCES parents", bad(), "1 3 5", "23503", nil},
		"deferred foreign key":            {"CREATE TABLE parents (n bigint PRIMARY KEY); INSERT INTO parents VALUES (1), (3), (5);" + plain + "ALTER TABLE rows ADD FOREIGN KEY (n) REFERENCES parents DEFERRABLE INITIALLY DEFERRED", bad(), "1 3 5", "23503", nil},
		"foreign key MATCH FULL":          {"CREATE TABLE parents (v text, n bigint, PRIMARY KEY (v, n)); INSERT INTO parents VALUES ('good', 1), ('good', 3);" + plain + "ALTER TABLE rows ADD FOREIGN KEY (v, n) REFERENCES parents MATCH FULL", []judged{row(1, "good", 1), {ID: 2, N: new(int64)}, row(3, "good", 3)}, "1 3", "23503", nil},
		"plain RAISE":                     {plain + fmt.Sprintf(raises, "RAISE EXCEPTION 'no'", "BEFORE"), bad(), "1 3 5", "P0001", nil},
		"RAISE after":                     {plain + fmt.Sprintf(raises, "RAISE EXCEPTION 'no'", "AFTER"), bad(), "1 3 5", "P0001", nil},
		"RAISE 40001":                     {raise("40001"), bad(), "1 3 5", "40001", nil},
		"RAISE 42501":                     {raise("42501"), bad(), "1 3 5", "42501", nil},
		"RAISE 42P01":                     {raise("42P01"), bad(), "1 3 5", "42P01", nil},
		"RAISE 53100":                     {raise("53100"), bad(), "1 3 5", "53100", nil},
		"RAISE 55P03":                     {raise("55P03"), bad(), "1 3 5", "55P03", nil},
		"RAISE 57014":                     {raise("57014"), bad(), "1 3 5", "57014", nil},
		"RAISE XX000":                     {raise("XX000"), bad(), "1 3 5", "XX000", nil},
		"RAISE HR000":                     {raise("HR000"), bad(), "1 3 5", "HR000", nil},
		"ASSERT":                          {plain + fmt.Sprintf(raises, "ASSERT false, 'no'", "BEFORE"), bad(), "1 3 5", "P0004", nil},
		"every row by RAISE":              {raise("42501"), []judged{row(1, "bad", 1), row(2, "bad", 2)}, "", "42501", nil},
		"no partition":                    {"CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint) PARTITION BY RANGE (id); CREATE TABLE low PARTITION OF rows FOR VALUES FROM (0) TO (10)", []judged{row(1, "", 1), row(20, "", 2), row(3, "", 3)}, "1 3", "23514", nil},
		"a table of some rows is missing": {plain + fmt.Sprintf(raises, "INSERT INTO missing VALUES (1)", "BEFORE"), bad(), "1 3 5", "42P01", nil},
		"second unique index":             {plain + "CREATE UNIQUE INDEX other ON rows (v); INSERT INTO rows VALUES (100, 'bad', 0)", []judged{row(1, "a", 1), row(2, "bad", 2), row(3, "b", 3)}, "1 3 100", "23505", nil},
		"unique among the new":            {plain + "CREATE UNIQUE INDEX other ON rows (v)", []judged{row(9, "a", 1), row(2, "a", 2), row(3, "b", 3)}, "3 9", "23505", nil},
		"deferred unique":                 {plain + "ALTER TABLE rows ADD UNIQUE (v) DEFERRABLE INITIALLY DEFERRED", []judged{row(9, "a", 1), row(2, "a", 2), row(3, "b", 3)}, "3 9", "23505", nil},
		"partial unique index":            {plain + "CREATE UNIQUE INDEX other ON rows (v) WHERE n > 1", []judged{row(1, "a", 1), row(2, "a", 2), row(3, "a", 3)}, "1 2", "23505", nil},
		"index that raises":               {plain + "CREATE INDEX other ON rows ((10 / (n - 2)))", []judged{row(1, "a", 1), row(2, "a", 2), row(3, "a", 3)}, "1 3", "22012", nil},
		"generated column":                {"CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint, g bigint GENERATED ALWAYS AS (10 / (n - 2)) STORED)", []judged{row(1, "a", 1), row(2, "a", 2), row(3, "a", 3)}, "1 3", "22012", nil},
		"exclusion":                       {plain + "ALTER TABLE rows ADD EXCLUDE USING gist (int8range(n, n + 2) WITH &&)", []judged{row(1, "", 1), row(2, "", 2), row(3, "", 3), row(4, "", 4)}, "1 3", "23P01", nil},
		"deferred exclusion":              {plain + "ALTER TABLE rows ADD EXCLUDE USING gist (int8range(n, n + 2) WITH &&) DEFERRABLE INITIALLY DEFERRED", []judged{row(1, "", 1), row(2, "", 2), row(3, "", 3), row(4, "", 4)}, "1 3", "23P01", nil},
		"a key too long":                  {plain + "CREATE INDEX other ON rows (v)", []judged{row(1, "", 1), row(2, longText(), 2), row(3, "", 3)}, "1 3", "54000", nil},
	} {
		t.Run(name, func(t *testing.T) {
			judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
				exec(t, pool, c.ddl)
				tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
				set(tab)
				if c.setup != nil {
					c.setup(t, pool)
				}
				var batches []string
				cut := (len(c.rows) + 1) / 2
				for _, rows := range [][]judged{c.rows[:cut], c.rows[cut:]} {
					l := load(rows...)
					stage(t, tab, l, staging.OutcomeStaged)
					batches = append(batches, l.Batch.ID)
				}
				p := promote(t, tab)
				if got := idsIn(t, pool, "rows"); got != c.promoted {
					t.Errorf("promoted %q, want %q", got, c.promoted)
				}
				got, want := codes(t, tab), map[string]string{}
				for _, r := range c.rows {
					if !slices.Contains(strings.Fields(c.promoted), fmt.Sprint(r.ID)) {
						want[fmt.Sprint(r.ID)] = "sqlstate_" + c.code
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("rejects (-want +got):\n%s", diff)
				}
				if p.Conflicts != 0 || p.RejectedByRule != len(want) {
					t.Errorf("got %+v, want %d rejected", p, len(want))
				}
				if f := fates(t, tab, batches...); f[0] != staging.FatePromoted || f[1] != staging.FatePromoted {
					t.Errorf("fates %v, want promoted", f)
				}
				balanced(t, tab)
			})
		})
	}
}

func longText() string {
	var b strings.Builder
	for i := range 4000 { // not to be compressed below the limit of an index
		fmt.Fprint(&b, i*i*7919)
	}
	return b.String()
}

// What Postgres takes is promoted, whatever the catalogue seemed to say when the program started.
func TestTheTargetAccepts(t *testing.T) {
	for name, c := range map[string]struct {
		ddl, later string
		rows       []judged
	}{
		"a tree":                            {"CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint REFERENCES rows)", "", []judged{{ID: 1}, row(2, "", 1), row(3, "", 2), row(4, "", 4)}},
		"a tree, children first":            {"CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint REFERENCES rows)", "", []judged{row(3, "", 2), row(2, "", 1), {ID: 1}}},
		"rows that need each other":         {"CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint REFERENCES rows)", "", []judged{row(3, "", 2), row(2, "", 3)}},
		"a parent made by a trigger":        {"CREATE TABLE parents (n bigint PRIMARY KEY); CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint REFERENCES parents); CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO parents VALUES (NEW.n) ON CONFLICT DO NOTHING; RETURN NEW; END $$; CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr()", "", []judged{row(1, "", 1), row(2, "", 2), row(3, "", 1)}},
		"a trigger that fills in":           {"CREATE TABLE rows (id bigint PRIMARY KEY, v text NOT NULL, n bigint CHECK (n > 0)); CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := coalesce(NEW.v, ''); NEW.n := abs(NEW.n); RETURN NEW; END $$; CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr()", "", []judged{{ID: 1}, row(2, "", -2), row(3, "", 3)}},
		"constraints that are not enforced": {"CREATE TABLE parents (n bigint PRIMARY KEY); DO $$ BEGIN EXECUTE 'CREATE TABLE rows (id bigint PRIMARY KEY, v text CHECK (length(v) < 3) NOT ENFORCED, n bigint REFERENCES parents NOT ENFORCED)'; EXCEPTION WHEN syntax_error THEN CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); END $$", "", []judged{row(1, "long", 1), row(2, "longer", 2)}},
		"constraints that are gone":         {"CREATE TABLE parents (n bigint PRIMARY KEY); CREATE TABLE rows (id bigint PRIMARY KEY, v text NOT NULL CONSTRAINT short CHECK (length(v) < 3), n bigint REFERENCES parents)", "ALTER TABLE rows DROP CONSTRAINT short, ALTER v DROP NOT NULL, DROP CONSTRAINT rows_n_fkey; DROP TABLE parents", []judged{{ID: 1}, row(2, "long", 2)}},
	} {
		t.Run(name, func(t *testing.T) {
			judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
				exec(t, pool, c.ddl)
				tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
				set(tab)
				exec(t, pool, c.later)
				stage(t, tab, load(c.rows[:1]...), staging.OutcomeStaged)
				stage(t, tab, load(c.rows[1:]...), staging.OutcomeStaged)
				if p := promote(t, tab); p.Rows != len(c.rows) || p.RejectedByRule != 0 {
					t.Errorf("got %+v, want %d rows; rejects %v", p, len(c.rows), codes(t, tab))
				}
				balanced(t, tab)
			})
		})
	}
}

// A row that a trigger repairs, and whose parent is staged, has its turn by arrival: a later row
// does not take its value of a second unique index.
func TestARepairedChildKeepsItsTurn(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		exec(t, pool, `CREATE TABLE rows (id bigint PRIMARY KEY, v text NOT NULL UNIQUE, n bigint REFERENCES rows);
			CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := coalesce(NEW.v, 'x'); RETURN NEW; END $$;
			CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr()`)
		tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
		set(tab)
		parent, v := int64(1), "x"
		stage(t, tab, load(row(1, "a", 1), judged{ID: 2, N: &parent}, judged{ID: 3, V: &v}), staging.OutcomeStaged)
		promote(t, tab)
		if got := idsIn(t, pool, "rows"); got != "1 2" {
			t.Errorf("promoted %s, want 1 2", got)
		}
		if diff := cmp.Diff(map[string]string{"3": staging.CodeUnique}, codes(t, tab)); diff != "" {
			t.Errorf("rejected (-want +got):\n%s", diff)
		}
		balanced(t, tab)
	})
}

// A bad row among the rows of a tree costs that row and its descendants, wherever the rows of
// the tree are.
func TestABadRowInATree(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v text CHECK (v <> 'bad'), n bigint REFERENCES rows)")
		tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
		set(tab)
		stage(t, tab, load(row(6, "", 5), row(5, "", 4), row(4, "", 3), row(3, "", 1)), staging.OutcomeStaged)
		stage(t, tab, load(row(9, "", 8), row(8, "", 2), row(2, "bad", 1), judged{ID: 1}, row(7, "", 77)), staging.OutcomeStaged)
		promote(t, tab)
		if got := idsIn(t, pool, "rows"); got != "1 3 4 5 6" {
			t.Errorf("promoted %q, want 1 3 4 5 6", got)
		}
		want := map[string]string{"2": staging.CodeCheck, "7": staging.CodeForeign, "8": staging.CodeForeign, "9": staging.CodeForeign}
		if diff := cmp.Diff(want, codes(t, tab)); diff != "" {
			t.Errorf("rejects (-want +got):\n%s", diff)
		}
		balanced(t, tab)
	})
}

// Policies of row-level security refuse rows; those of the parent do not hide it from the foreign
// key.
func TestRowLevelSecurity(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		role := strings.ReplaceAll("r"+uid.New(), "-", "")
		exec(t, pool, "CREATE ROLE "+role+`; CREATE TABLE parents (n bigint PRIMARY KEY); INSERT INTO parents VALUES (1), (2), (3);
			CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint REFERENCES parents);
			ALTER TABLE rows ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON rows USING (true) WITH CHECK (v <> 'bad');
			ALTER TABLE parents ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON parents USING (n = 1);
			GRANT CREATE, USAGE ON SCHEMA public TO `+role+"; GRANT ALL ON rows, parents TO "+role)
		t.Cleanup(func() {
			if _, err := pool.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
				t.Error(err)
			}
		})
		tab := newTable(t, as(t, pool, role), "rows", staging.Config[judged]{Key: []string{"id"}})
		set(tab)
		stage(t, tab, load(row(1, "good", 1), row(2, "bad", 1), row(3, "good", 2), row(4, "good", 4)), staging.OutcomeStaged)
		promote(t, tab)
		stage(t, tab, load(row(5, "bad", 1), row(6, "bad", 1)), staging.OutcomeStaged) // every row of a promotion
		promote(t, tab)
		if got := idsIn(t, pool, "rows"); got != "1 3" {
			t.Errorf("promoted %q, want 1 3", got)
		}
		want := map[string]string{"2": "sqlstate_42501", "4": staging.CodeForeign, "5": "sqlstate_42501", "6": "sqlstate_42501"}
		if diff := cmp.Diff(want, codes(t, tab)); diff != "" {
			t.Errorf("rejects (-want +got):\n%s", diff)
		}
	})
}

// An administrator turns row-level security on, and creates the policy later. Until then the target
// refuses every row, and none is at fault.
func TestRowLevelSecurityBeforeItsPolicy(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	role := strings.ReplaceAll("r"+uid.New(), "-", "")
	exec(t, pool, "CREATE ROLE "+role+"; CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); GRANT CREATE, USAGE ON SCHEMA public TO "+role+"; GRANT ALL ON rows TO "+role)
	t.Cleanup(func() { exec(t, pool, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	cfg := staging.Config[judged]{Key: []string{"id"}}
	tab := newTable(t, as(t, pool, role), "rows", cfg)
	stage(t, tab, load(row(1, "", 1), row(2, "", 1)), staging.OutcomeStaged)
	exec(t, pool, "ALTER TABLE rows ENABLE ROW LEVEL SECURITY; CREATE POLICY readers ON rows FOR SELECT USING (true)")
	if p, err := tab.Promote(t.Context(), staging.PromoteOptions{}); !errors.Is(err, staging.ErrPrivilege) || !strings.Contains(err.Error(), "FOR INSERT") {
		t.Errorf("rejected %d rows, %v, want ErrPrivilege with the statement that helps", p.RejectedByRule, err)
	}
	if _, err := staging.New(t.Context(), as(t, pool, role), "rows", cfg); !errors.Is(err, staging.ErrPrivilege) {
		t.Errorf("New: %v, want ErrPrivilege", err)
	}
	cfg.Role = staging.RoleWorker // writes nothing there
	newTable(t, as(t, pool, role), "rows", cfg)
	exec(t, pool, "CREATE POLICY writers ON rows FOR INSERT TO "+role+" WITH CHECK (id <> 2)")
	if p := promote(t, tab); p.Rows != 1 || p.RejectedByRule != 1 {
		t.Errorf("promoted %d rows, rejected %d, want 1 and 1", p.Rows, p.RejectedByRule)
	}
}

// What refuses the statement without rows, or every row for a reason of the surroundings, fails the
// promotion and rejects nothing.
func TestTheSurroundingsRefuse(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		for name, c := range map[string]struct{ ddl, repair string }{
			"every row lacks a table": {fmt.Sprintf(strings.ReplaceAll(raises, "NEW.v = 'bad'", "true"), "INSERT INTO missing VALUES (1)", "AFTER"), "CREATE TABLE missing (n int)"},
			"a statement's trigger": {`CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO missing VALUES (1); RETURN NULL; END $$;
				CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH STATEMENT EXECUTE FUNCTION tr();`, "CREATE TABLE missing (n int)"},
			"a statement's trigger that raises": {`CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'closed for maintenance'; END $$;
				CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH STATEMENT EXECUTE FUNCTION tr();`, "DROP TRIGGER tr ON rows"},
			"a dropped table": {"ALTER TABLE rows RENAME TO gone;", "ALTER TABLE gone RENAME TO rows"},
		} {
			exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint)")
			tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
			set(tab)
			var rows []judged
			for i := range 20 {
				rows = append(rows, row(int64(i), "", 1))
			}
			stage(t, tab, load(rows...), staging.OutcomeStaged)
			exec(t, pool, c.ddl)
			if p, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err == nil {
				t.Errorf("%s: no error: %+v, rejects %v", name, p, codes(t, tab))
			}
			exec(t, pool, c.repair)
			if p := promote(t, tab); p.Rows != 20 || p.RejectedByRule != 0 {
				t.Errorf("%s: after the repair: %+v", name, p)
			}
			exec(t, pool, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
		}
	})
}

// A merge that fails is not the rows' fault, even among rows that are at fault.
func TestAMergeThatFailsIsNamed(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		exec(t, pool, `CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); CREATE UNIQUE INDEX other ON rows (v);
			CREATE TABLE fine (one int PRIMARY KEY, n bigint); CREATE TABLE small (one int PRIMARY KEY, n bigint CHECK (n < 100))`)
		sum := func(table string) staging.Merge {
			return staging.Merge{Name: "into " + table, SQL: "INSERT INTO " + table + " SELECT 1, sum(n) FROM promoted HAVING count(*) > 0 ON CONFLICT (one) DO UPDATE SET n = " + table + ".n + EXCLUDED.n"}
		}
		tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}, Merges: []staging.Merge{sum("fine"), sum("small")}})
		set(tab)
		var rows []judged
		for i := range 30 {
			rows = append(rows, row(int64(i), fmt.Sprint(i%29), 10)) // the last one breaks the second index
		}
		stage(t, tab, load(rows...), staging.OutcomeStaged)
		_, err := tab.Promote(t.Context(), staging.PromoteOptions{})
		if !errors.Is(err, staging.ErrMerge) || !strings.Contains(err.Error(), `"into small"`) {
			t.Errorf("got %v, want ErrMerge that names the merge", err)
		}
		if got := codes(t, tab); len(got) != 0 || idsIn(t, pool, "rows") != "" {
			t.Errorf("rejected %v, promoted %q, want nothing", got, idsIn(t, pool, "rows"))
		}
		exec(t, pool, "ALTER TABLE small DROP CONSTRAINT small_n_check")
		if p := promote(t, tab); p.Rows != 29 || p.RejectedByRule != 1 {
			t.Errorf("after the repair: %+v", p)
		}
		for _, table := range []string{"fine", "small"} {
			if n := query[int](t, pool, "SELECT n FROM "+table); n != 290 {
				t.Errorf("%s: %d, want 290", table, n)
			}
		}
		balanced(t, tab)
	})
}

// A row may take the place that another one of the promotion has left in a further unique index.
// The statement with the merges takes rows in the order of their keys, and the record after it is
// refused alone.
func TestARowMakesRoom(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		exec(t, pool, sumsTable+`CREATE TABLE rows (id bigint PRIMARY KEY, v text UNIQUE, n bigint)`)
		tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}, Conflict: staging.ConflictReplace, Merges: []staging.Merge{sumsReplaced}})
		set(tab)
		stage(t, tab, load(row(17, "a", 1), row(18, "b", 2), row(19, "c", 3)), staging.OutcomeStaged)
		promote(t, tab)
		stage(t, tab, load(row(19, "d", 4), row(17, "e", 5), row(10, "a", 6), row(11, "b", 7), row(18, "f", 8), row(12, "b", 9)), staging.OutcomeStaged)
		if p := promote(t, tab); p.Rows != 5 || p.RejectedByRule != 1 {
			t.Errorf("%d rows and %d rejects, want 5 and 1", p.Rows, p.RejectedByRule)
		}
		if got, want := codes(t, tab), map[string]string{"11": "sqlstate_23505"}; !maps.Equal(got, want) {
			t.Errorf("rejects %v, want %v", got, want)
		}
		sums := `SELECT string_agg(concat_ws(' ', g, rows, sum), ', ' ORDER BY g) FROM `
		have, want := query[string](t, pool, sums+"sums WHERE rows <> 0"), query[string](t, pool, sums+"(SELECT n % 5 AS g, count(*) AS rows, sum(n) AS sum FROM rows GROUP BY 1) x")
		if have != want || idsIn(t, pool, "rows") != "10 12 17 18 19" {
			t.Errorf("sums %s, want %s; rows %s", have, want, idsIn(t, pool, "rows"))
		}
		balanced(t, tab)
	})
}

// A rule that raises for a row costs that row.
func TestARuleThatRaises(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint)")
		tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}, Rules: []staging.Rule{
			{Code: "dear", Where: "1000 / s.n > 500 -- a comment ends it"}, {Code: "twelve", Where: "n = 12"}}})
		set(tab)
		var rows []judged
		for i := range 40 {
			rows = append(rows, row(int64(i), "", int64(i%20)))
		}
		stage(t, tab, load(rows[:15]...), staging.OutcomeStaged)
		stage(t, tab, load(rows[15:]...), staging.OutcomeStaged)
		if p := promote(t, tab); p.Rows != 34 || p.RejectedByRule != 6 {
			t.Errorf("got %+v, want 34 rows and 6 rejects", p)
		}
		want := map[string]string{"0": "sqlstate_22012", "20": "sqlstate_22012", "1": "dear", "21": "dear", "12": "twelve", "32": "twelve"}
		if diff := cmp.Diff(want, codes(t, tab)); diff != "" {
			t.Errorf("rejects (-want +got):\n%s", diff)
		}
		for _, r := range must(tab.Rejects(t.Context(), staging.RejectFilter{})) {
			if r.Source != "rule" {
				t.Errorf("reject %s: source %q, want rule", r.Key, r.Source)
			}
		}
		balanced(t, tab)
	})
}

func must[V any](v V, err error) V {
	if err != nil {
		panic(err)
	}
	return v
}

// One bad row in thousands of small batches is found across batches: the statements grow with the
// logarithm of the rows.
func TestABadRowInManyBatches(t *testing.T) {
	for name, judge := range map[string]bool{"judge": true, "halves": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint);"+fmt.Sprintf(raises, "RAISE EXCEPTION 'no'", "AFTER"))
			tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
			tab.SetParts(64, 16, judge)
			const batches = 600
			for i := range int64(batches) {
				v := ""
				if i == 417 {
					v = "bad"
				}
				stage(t, tab, load(row(2*i, "", i), row(2*i+1, v, i)), staging.OutcomeStaged)
			}
			points := map[string]int{}
			tab.SetHook(func(p string) error { points[p]++; return nil })
			if p := promote(t, tab); p.Rows != 2*batches-1 || p.RejectedByRule != 1 || len(p.Batches) != batches {
				t.Errorf("rows %d, rejected %d, batches %d", p.Rows, p.RejectedByRule, len(p.Batches))
			}
			if got := slices.Collect(maps.Keys(codes(t, tab))); !slices.Equal(got, []string{"835"}) {
				t.Errorf("rejected %v, want 835", got)
			}
			if points["refused"] > 5 {
				t.Errorf("%d statements were refused, want 5 at most", points["refused"])
			}
			balanced(t, tab)
		})
	}
}

// The program itself tries a record whose refusal may be due to the surroundings. The rows behind
// it are written once, also where no key and no unique index would refuse them.
func TestRowsBehindAStopAreWrittenOnce(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		for _, code := range []string{"42501", "55P03", "57014", "XX000"} {
			exec(t, pool, "CREATE TABLE log (id bigint); CREATE TABLE rows (id bigint, v text, n bigint);"+fmt.Sprintf(raises, "RAISE 'no' USING ERRCODE = '"+code+"'", "BEFORE")+
				`CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (NEW.id); RETURN NULL; END $$;
				CREATE TRIGGER note AFTER INSERT ON rows FOR EACH ROW EXECUTE FUNCTION note()`)
			tab := newTable(t, pool, "rows", staging.Config[judged]{ID: "id"})
			set(tab)
			tab.SetParts(100, 100, true)
			var rows []judged
			for i := range int64(60) {
				rows = append(rows, row(i, map[bool]string{true: "bad"}[i%29 == 7], 1))
			}
			stage(t, tab, load(rows...), staging.OutcomeStaged)
			if p := promote(t, tab); p.Rows != 58 || p.RejectedByRule != 2 {
				t.Errorf("%s: %d rows and %d rejects, want 58 and 2", code, p.Rows, p.RejectedByRule)
			}
			if got := query[string](t, pool, "SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || (SELECT count(*) FROM log) FROM rows"); got != "58 58 58" {
				t.Errorf("%s: rows, ids and calls of the trigger are %s, want 58 58 58", code, got)
			}
			balanced(t, tab)
			exec(t, pool, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
		}
	})
}

// A record of several rows is refused with all of them, whatever refuses one, and its key is
// given back only then.
func TestARecordIsRefusedWithAllItsRows(t *testing.T) {
	for name, ddl := range map[string]string{
		"check":       "CREATE TABLE rows (id bigint, v text CHECK (v <> 'bad'), n bigint)",
		"not null":    "CREATE TABLE rows (id bigint, v text, n bigint NOT NULL)",
		"foreign key": "CREATE TABLE parents (n bigint PRIMARY KEY); INSERT INTO parents VALUES (1); CREATE TABLE rows (id bigint, v text, n bigint REFERENCES parents)",
		"trigger":     "CREATE TABLE rows (id bigint, v text, n bigint);" + fmt.Sprintf(raises, "RAISE 'no'", "AFTER"),
	} {
		t.Run(name, func(t *testing.T) {
			judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
				exec(t, pool, ddl)
				tab := newTable(t, pool, "rows", staging.Config[judged]{ID: "id"})
				set(tab)
				bad := row(2, "bad", 9)
				if name == "not null" {
					bad.N = nil
				}
				l := load(row(1, "", 1), bad, row(3, "", 1), row(4, "", 1), row(5, "", 1), row(6, "", 1))
				l.Batch.Records, l.Pos = 3, []int32{0, 0, 0, 1, 2, 2}
				stage(t, tab, l, staging.OutcomeStaged)
				if p := promote(t, tab); p.Rows != 3 || p.RejectedByRule != 3 {
					t.Errorf("%d rows and %d rejects, want 3 and 3", p.Rows, p.RejectedByRule)
				}
				if got := idsIn(t, pool, "rows"); got != "4 5 6" {
					t.Errorf("promoted %s, want 4 5 6", got)
				}
				balanced(t, tab)
			})
		})
	}
}
