package matview_test

import (
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
)

// Types of the user's own may begin like a text type, and a text type has several spellings.
func TestSpellingsOfTypes(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TYPE chart AS ENUM ('a', 'b')`, `CREATE TYPE text_kind AS ENUM ('a', 'b')`, `CREATE DOMAIN varchar_code AS varchar(5)`,
		`CREATE TYPE charge AS RANGE (subtype = int4)`,
		`CREATE TABLE kinds (chart chart, text_kind text_kind, code varchar_code, plain text COLLATE "POSIX", charge charge, amount int)`)
	rows := []string{`('a', 'b', 'x', 'p', '[1,2)', 1), ('a', 'b', 'x', 'p', '[1,2)', 2)`, `('a', 'b', 'x', 'p', '[1,2)', 3), ('b', 'a', 'y', 'P', 'empty', 4), (NULL, NULL, NULL, NULL, NULL, 5)`}
	for i, c := range []struct{ expr, typ string }{
		{"chart", "chart"},
		{"text_kind", "text_kind"},
		{"code", "varchar_code"},
		{"charge", "charge"},
		{"plain", "pg_catalog.text"},
		{"plain", "TEXT"},
		{"plain", "VARCHAR (5)"},
		{"plain", "national character varying(5)"},
		{"plain", "nchar(4)"},
		{"plain", `text collate "C"`},
		{"ARRAY[plain]", "text[]"},
		{"ARRAY[plain]", "pg_catalog . varchar(3) ARRAY"},
		{"ARRAY[plain]", "text array[1]"},
	} {
		for _, replaces := range []bool{false, true} {
			exec(t, pool, `TRUNCATE kinds`, `DROP TABLE IF EXISTS k, k_d, k_d_values`)
			r := matview.Rollup{
				Table: "k", From: "kinds", Replaces: replaces, GroupBy: []matview.Column{{Name: "key", Expr: c.expr, Type: c.typ}},
				Measures: []matview.Measure{
					{Name: "n", Aggregate: matview.AggregateCount},
					{Name: "d", Expr: c.expr, Type: c.typ, Aggregate: matview.AggregateDistinct},
				},
			}
			if err := r.Create(t.Context(), pool); err != nil {
				t.Fatalf("%s: %v", c.typ, err)
			}
			for _, values := range rows {
				sql, err := promotionSQL(r, `INSERT INTO kinds VALUES `+values)
				if err != nil {
					t.Fatal(err)
				}
				exec(t, pool, sql)
				same(t, pool, r)
			}
			exec(t, pool, `DELETE FROM k`)
			if n, err := r.Rebuild(t.Context(), pool); n != 3 || err != nil {
				t.Errorf("%d, %s: Rebuild wrote %d groups, %v; want 3", i, c.typ, n, err)
			}
			if err := r.Verify(t.Context(), pool); err != nil {
				t.Errorf("%s: %v", c.typ, err)
			}
		}
	}
}

// Keys, values and extremes may have a collation each.
func TestSeveralCollations(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE kinds (a text COLLATE "C", b text COLLATE "POSIX", c text)`)
	for _, replaces := range []bool{false, true} {
		exec(t, pool, `TRUNCATE kinds`, `DROP TABLE IF EXISTS k, k_d, k_d_values`)
		r := matview.Rollup{
			Table: "k", From: "kinds", Replaces: replaces,
			GroupBy: []matview.Column{{Name: "a", Type: `text COLLATE "C"`}, {Name: "b", Type: `varchar COLLATE "POSIX"`}, {Name: "c", Type: "text"}},
			Measures: []matview.Measure{
				{Name: "d", Expr: "b", Type: `text COLLATE "POSIX"`, Aggregate: matview.AggregateDistinct},
				{Name: "least", Expr: "a", Type: `text COLLATE "C"`, Aggregate: matview.AggregateMin},
				{Name: "most", Expr: "b", Type: `text COLLATE "POSIX"`, Aggregate: matview.AggregateMax},
			},
		}
		for range 2 { // an existing roll-up is compared
			if err := r.Create(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
		}
		sql, err := promotionSQL(r, `INSERT INTO kinds VALUES ('a', 'b', 'c'), ('a', 'B', 'c'), (NULL, 'b', NULL)`)
		if err != nil {
			t.Fatal(err)
		}
		exec(t, pool, sql, `DELETE FROM kinds WHERE b = 'B'`)
		if n, err := r.Rebuild(t.Context(), pool); n == 0 || err != nil {
			t.Errorf("Rebuild wrote %d rows, %v", n, err)
		}
		same(t, pool, r)
		if err := r.Verify(t.Context(), pool); err != nil {
			t.Error(err)
		}
	}
}
