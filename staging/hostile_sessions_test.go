package staging_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The search path of the session lacks the operators of the key's type. Postgres would then compare
// citext as text.
func TestKeysOfAnExtensionOutsideTheSearchPath(t *testing.T) {
	t.Parallel()
	type keyed struct {
		K string `db:"k"`
		V string `db:"v"`
	}
	const dropsRows = `CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v = 'drop' THEN RETURN NULL; END IF; RETURN NEW; END $$;
		CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr()`
	for name, c := range map[string]struct {
		typ, more string
		conflict  staging.Conflict
		want      string
	}{
		"skip":                {"ext.citext", "", staging.ConflictSkip, "Abc=there d=1 f=9"},
		"skip, a domain":      {"ext.ci", "", staging.ConflictSkip, "Abc=there d=1 f=9"},
		"skip, a trigger":     {"ext.citext", dropsRows, staging.ConflictSkip, "Abc=there d=1 f=9"},
		"replace":             {"ext.citext", "", staging.ConflictReplace, "ABC=c D=A f=9"}, // newer by citext's order, not by text's
		"replace, a domain":   {"ext.ci", "", staging.ConflictReplace, "ABC=c D=A f=9"},
		"replace, a trigger":  {"ext.citext", dropsRows, staging.ConflictReplace, "ABC=c D=A f=9"},
		"replace, of a child": {"ext.citext", "CREATE TABLE child () INHERITS (rows)", staging.ConflictReplace, "ABC=c D=A f=9"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.UTF8Postgres(t)
			exec(t, pool, "CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE DOMAIN ext.ci AS ext.citext; CREATE TABLE rows (k "+c.typ+" PRIMARY KEY, v ext.citext);"+c.more)
			exec(t, pool, "INSERT INTO rows VALUES ('Abc', 'there')")
			cfg := staging.Config[keyed]{Key: []string{"k"}, Conflict: c.conflict}
			if c.conflict == staging.ConflictReplace {
				exec(t, pool, "UPDATE rows SET v = 'B'")
				cfg.Newer = "v"
			}
			tab := newTable(t, pool, "rows", cfg)
			batches := [][]keyed{{{"ABC", "c"}, {"d", "1"}}, {{"aBc", "a"}, {"D", "A"}}, {{"f", "9"}, {"abC", "b"}}}
			for _, rows := range batches {
				stage(t, tab, load(rows...), staging.OutcomeStaged)
				promote(t, tab)
			}
			if got := query[string](t, pool, "SELECT string_agg(k || '=' || v, ' ' ORDER BY lower(k::text)) FROM rows"); got != c.want {
				t.Errorf("the target has %s, want %s", got, c.want)
			}
			if got := codes(t, tab); len(got) > 0 {
				t.Errorf("rejects: %v, want none", got)
			}
			found, err := tab.FindKey(t.Context(), "ABc")
			if err != nil || len(found.Rows) != 1 || found.Rows[0].Key != c.want[:3] {
				t.Errorf("FindKey: got %+v, %v, want the row %s", found, err, c.want[:3])
			}
			balanced(t, tab)
		})
	}
}

// A row that replaces another one brings its spelling of the key, in one promotion as in two.
func TestARowThatReplacesBringsItsSpelling(t *testing.T) {
	t.Parallel()
	type keyed struct {
		k any
		n int64
	}
	numbers := func(text string) pgtype.Array[pgtype.Numeric] {
		var a pgtype.Array[pgtype.Numeric]
		if err := pgtype.NewMap().Scan(pgtype.NumericArrayOID, pgtype.TextFormatCode, []byte(text), &a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	from := func(text string) pgtype.Range[pgtype.Numeric] {
		return pgtype.Range[pgtype.Numeric]{Lower: numbers("{" + text + "}").Elements[0], LowerType: pgtype.Inclusive, UpperType: pgtype.Unbounded, Valid: true}
	}
	pool := servertest.UTF8Postgres(t)
	exec(t, pool, `CREATE EXTENSION citext; CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false); CREATE DOMAIN amount AS numeric`)
	for i, c := range []struct {
		typ           string
		first, second any
		want          string
	}{
		{"citext", "abc", "ABC", "ABC"}, {"text COLLATE folded", "abc", "ABC", "ABC"}, {"text", "ABC", "ABC", "ABC"},
		{"numeric", "1.0", "1.00", "1.00"}, {"amount", "1.0", "1", "1"}, {"numeric(4,2)", "1", "1.0", "1.00"},
		{"double precision", 0.0, math.Copysign(0, -1), "-0"}, {"real", math.Copysign(0, -1), 0.0, "0"}, {"jsonb", "[1.0]", "[1]", "[1]"},
		{"interval", pgtype.Interval{Days: 1, Valid: true}, pgtype.Interval{Microseconds: 24 * 3_600_000_000, Valid: true}, "24:00:00"},
		{"numeric[]", numbers("{1,2}"), numbers("{1.0,2}"), "{1.0,2}"}, {"numrange", from("1.0"), from("1"), "[1,)"}, {"bigint", int64(7), int64(7), "7"},
	} {
		for _, together := range []bool{true, false} {
			rows := fmt.Sprintf("rows%d%v", i, together)
			exec(t, pool, fmt.Sprintf("CREATE TABLE %[1]s (k %[2]s PRIMARY KEY, n bigint); CREATE TABLE %[1]s_of (k %[2]s REFERENCES %[1]s ON UPDATE CASCADE)", rows, c.typ))
			tab := newTable(t, pool, rows, staging.Config[keyed]{Key: []string{"k"}, Conflict: staging.ConflictReplace, Columns: []staging.Column{{Name: "k"}, {Name: "n"}},
				Fill: func(v *keyed, r *staging.Row) {
					if s, ok := v.k.(string); ok {
						r.String(s)
					} else {
						r.Value(v.k)
					}
					r.Int(v.n)
				}})
			stage(t, tab, load(keyed{c.first, 1}), staging.OutcomeStaged)
			if !together {
				promote(t, tab)
				exec(t, pool, fmt.Sprintf("INSERT INTO %[1]s_of SELECT k FROM %[1]s", rows))
			}
			stage(t, tab, load(keyed{c.second, 2}), staging.OutcomeStaged)
			promote(t, tab)
			if together {
				exec(t, pool, fmt.Sprintf("INSERT INTO %[1]s_of SELECT k FROM %[1]s", rows))
			}
			want := c.want + "=2 " + c.want
			if got := query[string](t, pool, fmt.Sprintf("SELECT r.k::text || '=' || n || ' ' || c.k::text FROM %[1]s r, %[1]s_of c", rows)); got != want {
				t.Errorf("%s, together %v: the target and its child have %s, want %s", c.typ, together, got, want)
			}
			balanced(t, tab)
		}
	}
}

// A child of a group is found a parent as the foreign key compares them.
func TestGroupParentsOfAnExtensionOutsideTheSearchPath(t *testing.T) {
	t.Parallel()
	type keyed struct {
		K string `db:"k"`
		N int64  `db:"n"`
	}
	type record struct{ parent, child []keyed }
	pool := servertest.UTF8Postgres(t)
	exec(t, pool, `CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE TABLE parents (k ext.citext PRIMARY KEY, n bigint);
		CREATE TABLE children (k ext.citext NOT NULL REFERENCES parents, n bigint PRIMARY KEY)`)
	parents := newTable(t, pool, "parents", staging.Config[keyed]{Key: []string{"k"}})
	children := newTable(t, pool, "children", staging.Config[keyed]{Key: []string{"n"}})
	g := staging.Group(staging.Into(parents, func(r record) []keyed { return r.parent }), staging.Into(children, func(r record) []keyed { return r.child }))
	if _, err := g.Stage(t.Context(), load(record{[]keyed{{"Abc", 1}}, []keyed{{"aBC", 11}}}, record{nil, []keyed{{"none", 12}}}, record{nil, []keyed{{"ABC", 13}}})); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Promote(t.Context(), staging.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := query[string](t, pool, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM children"); got != "11 13" {
		t.Errorf("the children are %s, want 11 13", got)
	}
}

// A rewrite resumes by the order of the key's type.
func TestRewriteOfAnExtensionOutsideTheSearchPath(t *testing.T) {
	t.Parallel()
	type keyed struct {
		K string `db:"k"`
	}
	pool := servertest.UTF8Postgres(t)
	exec(t, pool, `CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE TABLE source (k ext.citext PRIMARY KEY); CREATE TABLE rows (k text);
		INSERT INTO source SELECT CASE WHEN i % 2 = 0 THEN upper(chr(97 + i)) ELSE chr(97 + i) END FROM generate_series(0, 25) i`)
	tab := newTable(t, pool, "rows", staging.Config[keyed]{})
	steps := 0
	run := staging.Rewrite[keyed, keyed]{
		Name: "letters", Source: "SELECT k FROM source", Key: "k", Rows: 4, UpTo: "X",
		Scan: func(r pgx.CollectableRow) (k keyed, err error) { return k, r.Scan(&k.K) },
		Transform: func(_ context.Context, in []keyed) ([]keyed, error) {
			if steps++; steps%2 == 0 {
				return nil, errors.New("stop")
			}
			return in, nil
		},
	}
	for {
		if _, err := run.Run(t.Context(), tab); err == nil {
			break
		} else if !strings.Contains(err.Error(), "stop") {
			t.Fatal(err)
		}
	}
	if got := query[string](t, pool, "SELECT count(*) || ' of ' || count(DISTINCT lower(k)) FROM rows"); got != "24 of 24" {
		t.Errorf("the rewrite has written %s letters, want 24 of 24", got)
	}
}

// What runs in a session depends on its session_replication_role, as in a process that applies a
// replication.
func TestTriggersOfAReplicationRole(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]string{"ENABLE REPLICA": "1 3", "ENABLE ALWAYS": "1 3", "ENABLE": "1 2 3", "DISABLE": "1 2 3"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint);"+fmt.Sprintf(drops, "")+"ALTER TABLE rows "+mode+" TRIGGER tr")
			tab := newTable(t, withParameter(t, pool, "session_replication_role", "replica"), "rows", staging.Config[judged]{Key: []string{"id"}})
			stage(t, tab, load(row(1, "a", 1), row(2, "drop", 1), row(3, "c", 1)), staging.OutcomeStaged)
			promote(t, tab)
			if got := idsIn(t, pool, "rows"); got != want {
				t.Errorf("promoted %s, want %s", got, want)
			}
			rejected := map[string]string{}
			if want == "1 3" {
				rejected["2"] = staging.CodeSuppressed
			}
			if diff := cmp.Diff(rejected, codes(t, tab)); diff != "" {
				t.Errorf("codes (-want +got):\n%s", diff)
			}
			balanced(t, tab)
		})
	}
	t.Run("a rule", func(t *testing.T) {
		t.Parallel()
		pool := servertest.Postgres(t)
		exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); CREATE RULE off AS ON INSERT TO rows DO INSTEAD NOTHING; ALTER TABLE rows ENABLE REPLICA RULE off")
		newTable(t, pool, "rows", staging.Config[judged]{})
		if _, err := staging.New(t.Context(), withParameter(t, pool, "session_replication_role", "replica"), "rows", staging.Config[judged]{}); !errors.Is(err, staging.ErrUnfit) {
			t.Errorf("New: got %v, want ErrUnfit", err)
		}
	})
}

// withParameter opens another pool, whose sessions begin with a parameter.
func withParameter(t *testing.T, pool *pgxpool.Pool, name, value string) *pgxpool.Pool {
	t.Helper()
	cfg := pool.Config()
	cfg.ConnConfig.RuntimeParams[name] = value
	p, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Rows that a policy hides look like none: a batch would be neither staged nor promoted.
func TestRowLevelSecurityOnCompanionTables(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	role := strings.ReplaceAll("r"+uid.New(), "-", "")
	exec(t, pool, "CREATE ROLE "+role+"; CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint)")
	t.Cleanup(func() { exec(t, pool, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	owner := newTable(t, pool, "rows", staging.Config[judged]{})
	exec(t, pool, "GRANT ALL ON ALL TABLES IN SCHEMA public TO "+role+"; ALTER TABLE rows_ledger ENABLE ROW LEVEL SECURITY; ALTER TABLE rows_registry_b ENABLE ROW LEVEL SECURITY")
	stage(t, owner, load(row(1, "", 1)), staging.OutcomeStaged) // the owner sees all rows
	other := as(t, pool, role)
	_, err := staging.New(t.Context(), other, "rows", staging.Config[judged]{})
	if !errors.Is(err, staging.ErrPrivilege) || !strings.Contains(err.Error(), "rows_ledger, rows_registry_b") || !strings.Contains(err.Error(), "DISABLE ROW LEVEL SECURITY") {
		t.Errorf("New: got %v, want ErrPrivilege with both tables and the statement that helps", err)
	}
	exec(t, pool, "ALTER TABLE rows_registry_b DISABLE ROW LEVEL SECURITY; CREATE POLICY every ON rows_ledger TO "+role+" USING (true)")
	if p := promote(t, newTable(t, other, "rows", staging.Config[judged]{})); p.Rows != 1 {
		t.Errorf("promoted %d rows, want 1", p.Rows)
	}
}

// An exhausted sequence is no fault of the rows: nothing is rejected, and the promotion goes on
// when the sequence does.
func TestASequenceIsExhausted(t *testing.T) {
	for name, ddl := range map[string]string{
		"at once":  "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint, seq bigserial)",
		"in parts": "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint, seq bigint GENERATED ALWAYS AS IDENTITY, UNIQUE (n))",
	} {
		t.Run(name, func(t *testing.T) {
			judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
				exec(t, pool, ddl+"; ALTER SEQUENCE rows_seq_seq MAXVALUE 9")
				tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
				set(tab)
				var rows []judged
				for i := range int64(20) {
					rows = append(rows, row(i, "", i))
				}
				stage(t, tab, load(rows...), staging.OutcomeStaged)
				if _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err == nil || !strings.Contains(err.Error(), "rows_seq_seq") {
					t.Errorf("Promote: got %v, want an error that names the sequence", err)
				}
				exec(t, pool, "ALTER SEQUENCE rows_seq_seq MAXVALUE 1000")
				if p := promote(t, tab); p.Rows != 20 || p.RejectedByRule != 0 {
					t.Errorf("%d rows and %d rejects, want 20 and 0", p.Rows, p.RejectedByRule)
				}
				balanced(t, tab)
			})
		})
	}
}

// A sequence may pass the end of its column's type, and a default may fail: no row is at fault,
// also where the sequence still had a number for the first rows.
func TestADefaultFails(t *testing.T) {
	for name, c := range map[string]struct{ ddl, repair string }{
		"a sequence beyond its column": {"CREATE SEQUENCE far START 32760; CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint, seq smallint DEFAULT nextval('far'))",
			"ALTER TABLE rows ALTER seq TYPE bigint"},
		"a function that raises": {"CREATE FUNCTION tenant() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'no tenant'; END $$; CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint, seq text DEFAULT tenant())",
			"CREATE OR REPLACE FUNCTION tenant() RETURNS text LANGUAGE sql AS 'SELECT 1::text'"},
	} {
		t.Run(name, func(t *testing.T) {
			judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
				exec(t, pool, c.ddl)
				tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
				set(tab)
				var rows []judged
				for i := range int64(20) {
					rows = append(rows, row(i, "", i))
				}
				stage(t, tab, load(rows...), staging.OutcomeStaged)
				for range 2 {
					if _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err == nil || !strings.Contains(err.Error(), `default of column "seq"`) {
						t.Errorf("Promote: got %v, want an error that names the column", err)
					}
				}
				if got := codes(t, tab); len(got) != 0 {
					t.Errorf("rejects %v, want none", got)
				}
				exec(t, pool, c.repair)
				if p := promote(t, tab); p.Rows != 20 || p.RejectedByRule != 0 {
					t.Errorf("%d rows and %d rejects, want 20 and 0", p.Rows, p.RejectedByRule)
				}
				balanced(t, tab)
			})
		})
	}
}

// On a server that publishes all tables, rejects are counted, joined, resolved and pruned.
func TestRejectsWhereAllTablesArePublished(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE PUBLICATION everything FOR ALL TABLES; CREATE TABLE rows (id bigint PRIMARY KEY, v text CHECK (v <> 'no'), n bigint)")
	tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
	exec(t, pool, "INSERT INTO rows_reject_counts SELECT 'other', 1, 0 FROM generate_series(1, 300)") // enough to be joined
	stage(t, tab, load(row(1, "a", 1), row(2, "no", 1)), staging.OutcomeStaged)
	if p := promote(t, tab); p.Rows != 1 || p.RejectedByRule != 1 {
		t.Errorf("%d rows and %d rejects, want 1 and 1", p.Rows, p.RejectedByRule)
	}
	if n, err := tab.Resolve(t.Context(), rejectIDs(t, tab)["2"]); err != nil || n != 1 {
		t.Errorf("Resolve: got %d, %v, want 1", n, err)
	}
	exec(t, pool, "UPDATE rows_rejects SET resolved_at = now() - interval '2 days'; UPDATE rows_ledger SET committed_at = now() - interval '2 days'")
	if n, err := tab.Prune(t.Context(), query[time.Time](t, pool, "SELECT now() - interval '1 day'")); err != nil || n != 1 {
		t.Errorf("Prune: got %d, %v, want 1", n, err)
	}
	want := []staging.CodeCount{{Code: "other", Open: 300}}
	if got, err := tab.CodeCounts(t.Context()); err != nil || !cmp.Equal(got, want) {
		t.Errorf("CodeCounts: got %v, %v, want %v", got, err, want)
	}
}

// A type may be named with its schema, whatever the search path is.
func TestTypesNamedWithTheirSchema(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE SCHEMA app; CREATE DOMAIN app.name AS varchar(5); CREATE TYPE app."Mood" AS ENUM ('glad'); CREATE TABLE app.rows (id bigint PRIMARY KEY, a app.name, b app."Mood"[], c numeric(5,2))`)
	type good struct {
		ID int64    `db:"id" dbtype:"pg_catalog.int8"`
		A  string   `db:"a" dbtype:"app.name"`
		B  []string `db:"b" dbtype:"app.\"Mood\"[]"`
		C  string   `db:"c" dbtype:"pg_catalog.numeric(5,2)"`
	}
	type bad struct {
		ID int64    `db:"id" dbtype:"pg_catalog.int4"`
		A  string   `db:"a" dbtype:"pg_catalog.name"`
		B  []string `db:"b" dbtype:"app.none[]"`
		C  string   `db:"c" dbtype:"pg_catalog.numeric(6,2)"`
	}
	for _, path := range []string{"public", "app, public", "app, pg_catalog"} {
		p := withParameter(t, pool, "search_path", path)
		tab := newTable(t, p, "app.rows", staging.Config[good]{Key: []string{"id"}})
		stage(t, tab, load(good{int64(len(path)), "a", []string{"glad"}, "1.50"}), staging.OutcomeStaged)
		if r := promote(t, tab); r.Rows != 1 {
			t.Errorf("%s: promoted %d rows, want 1", path, r.Rows)
		}
		var drift *staging.DriftError
		if _, err := staging.New(t.Context(), p, "app.rows", staging.Config[bad]{}); !errors.As(err, &drift) || len(drift.Drifts) != 4 {
			t.Errorf("%s: got %v, want a drift of all four columns", path, err)
		}
	}
}

// A number for a real column is converted as Postgres converts it.
func TestRealsAreThoseOfPostgres(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	type real struct {
		ID int64   `db:"id"`
		F  float64 `db:"f"`
	}
	exec(t, pool, "CREATE TABLE reals (id bigint PRIMARY KEY, f real)")
	tab := newTable(t, pool, "reals", staging.Config[real]{Key: []string{"id"}})
	var rows []real
	want := map[string]string{}
	for i, f := range []float64{math.MaxFloat32, 3.4028235e38, -3.4028235e38, 3.4028236e38, 1e39, 1e-50, -1e-50, 1.4e-45, 7.1e-46, 7e-46, 0, math.Copysign(0, -1), 0.1, math.Inf(1), math.NaN()} {
		rows = append(rows, real{int64(i), f})
		var r float32
		if err := pool.QueryRow(t.Context(), "SELECT $1::float8::real", f).Scan(&r); err != nil {
			want[fmt.Sprint(i)] = staging.CodeRange
		}
	}
	stage(t, tab, load(rows...), staging.OutcomeStaged)
	promote(t, tab)
	if diff := cmp.Diff(want, codes(t, tab)); diff != "" {
		t.Errorf("codes (-want +got):\n%s", diff)
	}
	for _, r := range rows {
		if want[fmt.Sprint(r.ID)] == "" && !query[bool](t, pool, "SELECT f = $2::float8::real AND f::text = $2::float8::real::text FROM reals WHERE id = $1", r.ID, r.F) {
			t.Errorf("%g became another number", r.F)
		}
	}
	balanced(t, tab)
}

// The reasons of a trigger and of a program are cut.
func TestLongReasons(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		exec(t, pool, `CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint);
			CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF NEW.v = 'long' THEN RAISE EXCEPTION '%', repeat('ä', 100000) USING DETAIL = repeat('d', 100000); END IF;
				IF NEW.v = 'detail' THEN RAISE EXCEPTION 'short' USING DETAIL = repeat('d', 100000); END IF;
				RETURN NEW; END $$;
			CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr()`)
		tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
		set(tab)
		rows := []judged{row(0, "", 0)}
		for i := range int64(20) {
			rows = append(rows, row(1+i, []string{"long", "detail"}[i%2], 1))
		}
		l := load(rows...)
		l.Batch.Records++
		l.Rejects = []staging.Reject{{Pos: 21, Key: "21", Code: "mine", Reason: strings.Repeat("ü", 100_000), Payload: []byte("x")}}
		stage(t, tab, l, staging.OutcomeStaged)
		if p := promote(t, tab); p.Rows != 1 || p.RejectedByRule != 20 {
			t.Errorf("%d rows and %d rejects, want 1 and 20", p.Rows, p.RejectedByRule)
		}
		if got := query[string](t, pool, "SELECT min(length(reason)) || ' ' || max(length(reason)) || ' ' || count(*) FROM rows_rejects"); got != "1000 1000 21" {
			t.Errorf("the least and greatest length of a reason and their number are %s, want 1000 1000 21", got)
		}
		balanced(t, tab)
	})
}

// A function or an operator of the user fits a column of type varchar better than that of text
// does, wherever the search path has it. Keys are compared as their index compares them.
func TestOperatorsOfTheUser(t *testing.T) {
	t.Parallel()
	type part struct {
		ID   string `db:"id" dbtype:"varchar(40)"`
		N    int64  `db:"n"`
		Code string `db:"code" dbtype:"varchar(5)"`
	}
	for name, c := range map[string]struct {
		conflict staging.Conflict
		want     string
	}{
		"skip":    {staging.ConflictSkip, "u 1 b,w 2 b,x 1 a"},
		"replace": {staging.ConflictReplace, "u 1 b,w 2 b,x 5 b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, `CREATE TABLE codes (code varchar(5) PRIMARY KEY); INSERT INTO codes VALUES ('a'), ('b');
				CREATE TABLE items (id varchar(40) PRIMARY KEY, n bigint CHECK (n <> 7), code varchar(5) REFERENCES codes);
				CREATE FUNCTION never(varchar, varchar) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT false';
				CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = never);
				CREATE OPERATOR <= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = never);
				CREATE OPERATOR >= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = never);
				CREATE FUNCTION min(varchar) RETURNS varchar LANGUAGE sql AS 'SELECT NULL::varchar';
				CREATE FUNCTION max(varchar) RETURNS varchar LANGUAGE sql AS 'SELECT NULL::varchar'`)
			tab := newTable(t, pool, "items", staging.Config[part]{Key: []string{"id"}, Conflict: c.conflict})
			for _, rows := range [][]part{
				{{"x", 1, "a"}, {"y", 7, "a"}, {"z", 1, "c"}, {"w", 2, "b"}},
				{{"x", 3, "a"}, {"v", 7, "a"}, {"u", 1, "b"}},
				{{"x", 4, "a"}, {"x", 5, "b"}},
			} {
				stage(t, tab, load(rows...), staging.OutcomeStaged)
				promote(t, tab)
			}
			if got := query[string](t, pool, "SELECT string_agg(concat_ws(' ', id, n, code), ',' ORDER BY id::text) FROM items"); got != c.want {
				t.Errorf("got rows %s, want %s", got, c.want)
			}
			if got, want := query[string](t, pool, "SELECT string_agg(key, ',' ORDER BY key) FROM items_rejects"), "v,y,z"; got != want {
				t.Errorf("got rejects %s, want %s", got, want)
			}
			balanced(t, tab)
		})
	}
}
