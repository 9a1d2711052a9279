package staging_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5/pgxpool"
)

// hrRow is a row of human resources, whose columns have the names that a statement of this package
// might use.
type hrRow struct {
	ID      int64  `db:"id"`
	Code    string `db:"hr_code"`
	Reason  string `db:"hr_reason"`
	Tid     string `db:"hr_tid"`
	Verdict string `db:"hr_verdict"`
	Row     string `db:"hr_row"`
	There   string `db:"hr_there"`
	Bad     string `db:"hr_bad"`
	S       string `db:"s"`
	B       string `db:"b"`
	R       string `db:"r"`
	No      int64  `db:"no"`
	Old     string `db:"old"`
	Pos     int64  `db:"pos"`
	Batch   string `db:"batch"`
	Ctid    string `db:"place"`
	Promo   string `db:"promoted"`
	Var     string `db:"hr_record_"`
	Stop    string `db:"hr_stop"`
}

// Columns with such names change no value, no verdict and no payload.
func TestColumnsOfHumanResources(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, _ func(*staging.Table[judged])) {
		for i, c := range []staging.Conflict{staging.ConflictSkip, staging.ConflictReplace} {
			table := fmt.Sprintf("staff%d", i)
			exec(t, pool, fmt.Sprintf(`CREATE TABLE %s (id bigint PRIMARY KEY, hr_code text CHECK (hr_code <> 'bad'), hr_reason text, hr_tid text, hr_verdict text, hr_row text, hr_there text,
				hr_bad text, s text, b text, r text, no bigint, old text, pos bigint, batch text, place text, promoted text, hr_record_ text, hr_stop text);
				CREATE FUNCTION tr%[2]d() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.s = 'bad' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$;
				CREATE TRIGGER tr BEFORE INSERT ON %[1]s FOR EACH ROW EXECUTE FUNCTION tr%[2]d()`, table, i))
			tab := newTable(t, pool, table, staging.Config[hrRow]{Key: []string{"id"}, Conflict: c, Rules: []staging.Rule{{Code: "ruled", Where: "hr_verdict = 'bad' OR s.hr_verdict = 'bad'"}}})
			tab.SetParts(2, 4, true)
			row := func(id int64) hrRow {
				return hrRow{id, "c", "re", "t", "v", "w", "x", "y", "s", "b", "r", 7, "o", 8, "ba", "pl", "pr", "va", "st"}
			}
			rows := []hrRow{row(1), row(2), row(3), row(4), row(5), row(6)}
			rows[1].Code, rows[2].S, rows[3].Verdict = "bad", "bad", "bad"
			stage(t, tab, load(rows...), staging.OutcomeStaged)
			stage(t, tab, load(rows[0]), staging.OutcomeStaged)
			promote(t, tab)
			if diff := cmp.Diff(map[string]string{"2": staging.CodeCheck, "3": "sqlstate_P0001", "4": "ruled"}, codes(t, tab)); diff != "" {
				t.Errorf("codes (-want +got):\n%s", diff)
			}
			for _, r := range must(tab.Rejects(t.Context(), staging.RejectFilter{})) {
				if n := query[int](t, pool, "SELECT count(*) FROM json_object_keys($1::json)", string(r.Payload)); n != 19 {
					t.Errorf("the payload of %s is %s, want 19 columns", r.Key, r.Payload)
				}
			}
			want := "(1,c,re,t,v,w,x,y,s,b,r,7,o,8,ba,pl,pr,va,st)"
			if got := query[string](t, pool, "SELECT x::text FROM "+table+" x WHERE id = 1"); got != want {
				t.Errorf("the row is %s, want %s", got, want)
			}
			if got := query[string](t, pool, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM "+table); got != "1 5 6" {
				t.Errorf("promoted %s, want 1 5 6", got)
			}
			balanced(t, tab)
		}
	})
}

// A table of a stranger: Postgres decides what it takes, and what it refuses costs the record.
func TestTablesOfStrangers(t *testing.T) {
	for name, c := range map[string]struct {
		ddl  string
		rows []judged
		want string            // ids in the target
		code map[string]string // of the rejects
		dups int               // conflicts
	}{
		"no partition for a row": {"CREATE TABLE rows (id bigint, v text, n bigint, PRIMARY KEY (id)) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF rows FOR VALUES FROM (0) TO (3)",
			[]judged{row(1, "", 1), row(5, "", 1), row(2, "", 1)}, "1 2", map[string]string{"5": staging.CodeCheck}, 0},
		"a partition that has a CHECK and a trigger": {"CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF rows (CHECK (v <> 'no')) FOR VALUES FROM (0) TO (3); CREATE TABLE p2 PARTITION OF rows DEFAULT",
			[]judged{row(1, "no", 1), row(5, "no", 1), row(2, "", 1)}, "2 5", map[string]string{"1": staging.CodeCheck}, 0},
		"a child by inheritance": {"CREATE TABLE parent (id bigint, v text CHECK (v <> 'no')); CREATE TABLE rows (n bigint, PRIMARY KEY (id)) INHERITS (parent)",
			[]judged{row(1, "", 1), row(2, "no", 1)}, "1", map[string]string{"2": staging.CodeCheck}, 0},
		"domains over domains": {"CREATE DOMAIN d1 AS text CHECK (VALUE <> 'no'); CREATE DOMAIN d2 AS d1 NOT NULL; CREATE DOMAIN d3 AS d2 CHECK (length(VALUE) < 4); CREATE TABLE rows (id bigint PRIMARY KEY, v d3, n bigint)",
			[]judged{row(1, "yes", 1), row(2, "no", 1), {ID: 3}, row(4, "longer", 1)}, "1", map[string]string{"2": staging.CodeCheck, "3": staging.CodeNotNull, "4": staging.CodeCheck}, 0},
		"statement triggers with transition tables": {"CREATE TABLE log (n bigint); CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF EXISTS (SELECT FROM fresh WHERE v = 'no') THEN RAISE 'none'; END IF; INSERT INTO log SELECT id FROM fresh; RETURN NULL; END $$; CREATE TRIGGER tr AFTER INSERT ON rows REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION tr()",
			[]judged{row(1, "", 1), row(2, "no", 1), row(3, "", 1)}, "1 3", map[string]string{"2": "sqlstate_P0001"}, 0},
		"a trigger that changes the key": {"CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := NEW.id / 2; RETURN NEW; END $$; CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr()",
			[]judged{row(10, "", 1), row(11, "", 1), row(20, "", 1)}, "5 10", map[string]string{}, 1},
		"a trigger moves a row to another partition": {"CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF rows FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF rows DEFAULT; CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v = 'move' THEN NEW.id := NEW.id + 100; END IF; RETURN NEW; END $$; CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr()",
			[]judged{row(1, "", 1), row(2, "move", 1), row(30, "", 1)}, "1 30", map[string]string{"2": "sqlstate_0A000"}, 0},
		"a partition with a rule of its own": {"CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF rows (n NOT NULL, UNIQUE (v)) FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF rows DEFAULT",
			[]judged{row(1, "a", 1), {ID: 2}, row(3, "a", 1), {ID: 40}, row(50, "a", 1)}, "1 40 50", map[string]string{"2": staging.CodeNotNull, "3": staging.CodeUnique}, 0},
		"columns that fill themselves": {"CREATE DOMAIN state AS text DEFAULT 'new' NOT NULL; CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.filled := NEW.n; RETURN NEW; END $$; CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint, seq bigint GENERATED ALWAYS AS IDENTITY, twice bigint GENERATED ALWAYS AS (n * 2) STORED CHECK (twice < 10), state state NOT NULL, filled bigint NOT NULL); CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr()",
			[]judged{row(1, "", 1), row(2, "", 5), {ID: 3}, row(4, "", 2)}, "1 4", map[string]string{"2": staging.CodeCheck, "3": staging.CodeNotNull}, 0},
		"a foreign key that is not valid, and one that cascades": {"CREATE TABLE parents (n bigint PRIMARY KEY); INSERT INTO parents VALUES (1); CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); INSERT INTO rows VALUES (9, '', 77); ALTER TABLE rows ADD FOREIGN KEY (n) REFERENCES parents ON DELETE CASCADE NOT VALID",
			[]judged{row(1, "", 1), row(2, "", 2), {ID: 3}}, "1 3 9", map[string]string{"2": staging.CodeForeign}, 0},
		"NULLS NOT DISTINCT": {"CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint, UNIQUE NULLS NOT DISTINCT (v, n))",
			[]judged{{ID: 1}, {ID: 2}, row(3, "", 1)}, "1 3", map[string]string{"2": staging.CodeUnique}, 0},
		"a default tablespace and a publication": {"CREATE PUBLICATION pub FOR ALL TABLES; CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); ALTER TABLE rows REPLICA IDENTITY FULL",
			[]judged{row(1, "", 1), row(2, "", 1), row(1, "again", 1)}, "1 2", map[string]string{}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
				exec(t, pool, c.ddl)
				tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
				set(tab)
				stage(t, tab, load(c.rows...), staging.OutcomeStaged)
				if p := promote(t, tab); p.Conflicts != c.dups {
					t.Errorf("%d conflicts, want %d", p.Conflicts, c.dups)
				}
				if got := idsIn(t, pool, "rows"); got != c.want {
					t.Errorf("promoted %s, want %s", got, c.want)
				}
				if diff := cmp.Diff(c.code, codes(t, tab)); diff != "" {
					t.Errorf("codes (-want +got):\n%s", diff)
				}
				balanced(t, tab)
			})
		})
	}
}

// A key that holds for a time, and a generated column, virtual where the server has such: an older
// one gets an exclusion constraint and a stored column.
func TestTemporalKeys(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		key, virtual := "EXCLUDE USING gist (id WITH =, during WITH &&)", "STORED"
		if query[int](t, pool, "SELECT current_setting('server_version_num')::int") >= 180000 {
			key, virtual = "PRIMARY KEY (id, during WITHOUT OVERLAPS)", "VIRTUAL"
		}
		exec(t, pool, "CREATE EXTENSION btree_gist; CREATE TABLE rows (id bigint, v text, n bigint, during int8range NOT NULL DEFAULT '[0,9)', twice bigint GENERATED ALWAYS AS (n * 2) "+
			virtual+" CHECK (twice < 10), "+key+")")
		tab := newTable(t, pool, "rows", staging.Config[judged]{ID: "id"})
		set(tab)
		stage(t, tab, load(row(1, "", 1), row(2, "", 5), row(3, "", 1), row(3, "", 2), row(4, "", 3)), staging.OutcomeStaged)
		promote(t, tab)
		if diff := cmp.Diff(map[string]string{"2": staging.CodeCheck, "3": staging.CodeExclusion}, codes(t, tab)); diff != "" {
			t.Errorf("codes (-want +got):\n%s", diff)
		}
		if got := idsIn(t, pool, "rows"); got != "1 3 4" {
			t.Errorf("promoted %s, want 1 3 4", got)
		}
		balanced(t, tab)
		if _, err := staging.New(t.Context(), pool, "rows", staging.Config[judged]{Key: []string{"id"}}); !errors.Is(err, staging.ErrConfig) {
			t.Errorf("a key of which the time is a part: got %v, want ErrConfig", err)
		}
	})
}

// The rows of child tables are the target's as far as keys go, however the promotion looks for
// them.
func TestKeysOfChildTables(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); CREATE TABLE child () INHERITS (rows); INSERT INTO child SELECT i, 'child', i FROM generate_series(1, 1000, 2) i")
	tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
	for range 2 {
		var rows []judged
		for i := range int64(200) {
			rows = append(rows, row(1+i*5, "", 1)) // every second one is in the child
		}
		stage(t, tab, load(rows...), staging.OutcomeStaged)
		promote(t, tab)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM ONLY rows"); n != 100 {
		t.Errorf("%d rows were promoted, want 100", n)
	}
	if n := query[int](t, pool, "SELECT count(*) - count(DISTINCT id) FROM rows"); n != 0 {
		t.Errorf("%d keys are doubled", n)
	}
	balanced(t, tab)
}

// Keys whose type compares otherwise than by bytes: the target's duplicates are the conflicts.
func TestKeysThatCompareInTheirOwnWay(t *testing.T) {
	t.Parallel()
	pool := servertest.UTF8Postgres(t) // ICU has no SQL_ASCII
	exec(t, pool, "CREATE COLLATION whatever (provider = icu, locale = 'und-u-ks-level2', deterministic = false); CREATE EXTENSION IF NOT EXISTS citext")
	type keyed struct {
		K string `db:"k"`
		N int64  `db:"n"`
	}
	for i, c := range []struct {
		typ        string
		keys       []string
		rows, dups int
	}{
		{"citext", []string{"Ab", "aB", "b"}, 2, 1},
		{"text COLLATE whatever", []string{"Ab", "aB", "b"}, 2, 1},
		{"char(5)", []string{"a", "a  ", "b"}, 2, 1},
		{"numeric", []string{"1.0", "1.00", "1", "NaN", "NaN"}, 2, 3},
		{"uuid", []string{"00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000A"}, 1, 1},
	} {
		for j, conflict := range []staging.Conflict{staging.ConflictSkip, staging.ConflictReplace} {
			table := fmt.Sprintf("k%d_%d", i, j)
			exec(t, pool, "CREATE TABLE "+table+" (k "+c.typ+" PRIMARY KEY, n bigint)")
			tab := newTable(t, pool, table, staging.Config[keyed]{Key: []string{"k"}, Conflict: conflict})
			var rows []keyed
			for n, k := range c.keys {
				rows = append(rows, keyed{k, int64(n)})
			}
			stage(t, tab, load(rows...), staging.OutcomeStaged)
			if p := promote(t, tab); p.Rows != c.rows || p.Conflicts != c.dups || p.RejectedByRule != 0 {
				t.Errorf("%s: %d rows, %d conflicts, %d rejects, want %d, %d, 0; %v", c.typ, p.Rows, p.Conflicts, p.RejectedByRule, c.rows, c.dups, codes(t, tab))
			}
			stage(t, tab, load(rows[0]), staging.OutcomeStaged)
			promote(t, tab)
			if n := query[int](t, pool, "SELECT count(*) FROM "+table); n != c.rows {
				t.Errorf("%s: %d rows after the second promotion, want %d", c.typ, n, c.rows)
			}
			balanced(t, tab)
		}
	}
}
