package staging_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What a merge refuses a record for costs that record, on each path by which rows reach a target.
func TestAMergeRefusesARecord(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 16)
	targets := map[string]string{
		"plain":     "",
		"an index":  "CREATE UNIQUE INDEX ON rows (n);",
		"a trigger": "CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr();",
	}
	cases := []struct{ name, table, value, bad, code string }{
		{"a key too long for its index", "CREATE TABLE log (k text, n bigint, PRIMARY KEY (k))", "repeat(v, 1)", "long", "sqlstate_54000"},
		{"no number", "CREATE TABLE log (k bigint PRIMARY KEY, n bigint)", "v::bigint", "x", "sqlstate_22P02"},
		{"a division by zero", "CREATE TABLE log (k bigint PRIMARY KEY, n bigint)", "10 / v::bigint", "0", "sqlstate_22012"},
		{"no NULL", "CREATE TABLE log (k text PRIMARY KEY, n bigint)", "nullif(v, '0')", "0", staging.CodeNotNull},
		{"no parent", "CREATE TABLE known (k text PRIMARY KEY); INSERT INTO known VALUES ('1'); CREATE TABLE log (k text PRIMARY KEY REFERENCES known, n bigint)", "v", "0", staging.CodeForeign},
		{"a domain", "CREATE DOMAIN digit AS text CHECK (VALUE <> '0'); CREATE TABLE log (k digit PRIMARY KEY, n bigint)", "v", "0", staging.CodeCheck},
		{"a function that raises", "CREATE FUNCTION f(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN IF $1 = '0' THEN RAISE 'no'; END IF; RETURN $1; END $$; CREATE TABLE log (k text PRIMARY KEY, n bigint)", "f(v)", "0", "sqlstate_P0001"},
	}
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		for name, target := range targets {
			for _, c := range cases {
				exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint);"+target+c.table)
				if c.bad == "long" { // random, or it would be compressed
					c.bad = query[string](t, pool, "SELECT string_agg(md5(i::text || '"+long+"'), '') FROM generate_series(1, 400) i")
				}
				merge := staging.Merge{Name: "into log", SQL: "INSERT INTO log SELECT " + c.value + ", count(*) FROM promoted GROUP BY 1 ON CONFLICT (k) DO UPDATE SET n = log.n + EXCLUDED.n"}
				tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}, Merges: []staging.Merge{merge}})
				set(tab)
				var rows []judged
				for i := range 30 {
					rows = append(rows, row(int64(i), "1", int64(i)))
				}
				rows[3].V, rows[17].V = &c.bad, &c.bad
				stage(t, tab, load(rows[:10]...), staging.OutcomeStaged)
				stage(t, tab, load(rows[10:]...), staging.OutcomeStaged)
				if p := promote(t, tab); p.Rows != 28 || p.RejectedByRule != 2 {
					t.Errorf("%s, %s: %d rows and %d rejects, want 28 and 2", c.name, name, p.Rows, p.RejectedByRule)
				}
				if got, want := codes(t, tab), map[string]string{"3": c.code, "17": c.code}; !maps.Equal(got, want) {
					t.Errorf("%s, %s: rejects %v, want %v", c.name, name, got, want)
				}
				if reason := query[string](t, pool, "SELECT min(reason) FROM rows_rejects"); !strings.HasPrefix(reason, `merge "into log": `) {
					t.Errorf("%s, %s: the reason %q does not name the merge", c.name, name, reason)
				}
				if n := query[int](t, pool, "SELECT sum(n)::bigint FROM log"); n != 28 {
					t.Errorf("%s, %s: %d rows merged, want 28", c.name, name, n)
				}
				balanced(t, tab)
				exec(t, pool, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
			}
		}
	})
}

// A merge that refuses every record, or that is full, fails the promotion and rejects nothing.
func TestAMergeThatRefusesEveryRecord(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); CREATE TABLE sums (k bigint PRIMARY KEY, n smallint)")
		merge := func(value string) staging.Merge {
			return staging.Merge{Name: "sums", SQL: "INSERT INTO sums SELECT v::bigint, " + value + " FROM promoted GROUP BY 1 ON CONFLICT (k) DO UPDATE SET n = sums.n + EXCLUDED.n"}
		}
		tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}, Merges: []staging.Merge{merge("sum(n)::smallint")}})
		set(tab)
		fails := func(what string) {
			t.Helper()
			if _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); !errors.Is(err, staging.ErrMerge) || !strings.Contains(err.Error(), `"sums"`) {
				t.Errorf("%s: %v, want ErrMerge that names the merge", what, err)
			}
			if got := codes(t, tab); len(got) != 0 || idsIn(t, pool, "rows") != "" {
				t.Errorf("%s: rejected %v, promoted %q, want nothing", what, got, idsIn(t, pool, "rows"))
			}
		}
		full := []judged{row(1, "1", 30000), row(2, "1", 30000), row(3, "2", 1)}
		stage(t, tab, load(full...), staging.OutcomeStaged)
		fails("a full sum")
		exec(t, pool, "ALTER TABLE sums ALTER n TYPE bigint")
		tab = newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}, Merges: []staging.Merge{merge("10 / (sum(n) * 0)")}})
		set(tab)
		fails("every record")
		tab = newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}, Merges: []staging.Merge{merge("sum(n)")}})
		set(tab)
		if p := promote(t, tab); p.Rows != 3 || p.RejectedByRule != 0 {
			t.Errorf("after the repair: %+v", p)
		}

		// A bad record alone stays until the target accepts another one.
		stage(t, tab, load(row(4, "x", 1)), staging.OutcomeStaged)
		if _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); !errors.Is(err, staging.ErrMerge) {
			t.Errorf("a bad record alone: %v, want ErrMerge", err)
		}
		stage(t, tab, load(row(5, "7", 1)), staging.OutcomeStaged)
		rows := 0
		for range 3 {
			rows += promote(t, tab).Rows
		}
		if got := slices.Collect(maps.Keys(codes(t, tab))); rows != 1 || fmt.Sprint(got) != "[4]" {
			t.Errorf("promoted %d, rejected %v, want 1 and [4]", rows, got)
		}
		balanced(t, tab)
	})
}
