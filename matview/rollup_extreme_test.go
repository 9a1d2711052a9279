package matview_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
)

// A minimum or a maximum whose column orders otherwise than the expression is refused: the order
// would depend on how the rows are divided into promotions.
func TestExtremesOrderAsTheTable(t *testing.T) {
	t.Parallel()
	pool := servertest.UTF8Postgres(t) // ICU has no SQL_ASCII
	exec(t, pool, `CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN grade AS numeric`,
		`CREATE TABLE ev (i int, n numeric, f real, g grade, d date, ts timestamp, tz timestamptz, s text, c text COLLATE "C", v varchar(5), b character(5),
			m mood, a int[], ci ext.citext, ip cidr)`)
	for i, c := range []struct{ expr, typ, refused string }{
		{"i", "integer", ""}, {"i", "bigint", ""}, {"i", "numeric(12,-1)", ""}, {"i", "text", "write integer"}, {"i", "date", "write integer"},
		{"n", "numeric(12,1)", ""}, {"n", "double precision", ""}, {"n", "text", "write numeric"}, {"f", "numeric", ""}, {"g", "grade", ""}, {"g", "numeric", ""},
		{"d", "date", ""}, {"d", "timestamp", ""}, {"d", "text", "write date"}, {"ts", "timestamp(0)", ""}, {"ts", "date", "write timestamp"},
		{"tz", "timestamptz", ""}, {"tz", "timestamp", "write timestamp with time zone"},
		{"s", "text", ""}, {"s", "varchar", ""}, {"s", "varchar(2)", "write text"}, {"s", `text COLLATE "C"`, "COLLATE"}, {"s || 'x'", "text", ""},
		{"c", "text", `write text COLLATE "C"`}, {"c", `text COLLATE "C"`, ""}, {"c", `varchar COLLATE "C"`, ""},
		{"v", "varchar(5)", ""}, {"v", "text", ""}, {"v", "varchar(4)", "write character varying(5)"}, {"b", "character(5)", ""}, {"b", "text", "write character(5)"},
		{"m", "mood", ""}, {"m", "text", "write mood"}, {"a", "int[]", ""}, {"a", "text", "write integer[]"}, {"ip", "cidr", ""}, {"ip", "inet", ""},
		{"ci", "ext.citext", "add the schema of ext.citext to the search_path"}, {"ci::text", "text", ""},
	} {
		for _, a := range []matview.Aggregate{matview.AggregateMin, matview.AggregateMax} {
			r := matview.Rollup{
				Table: fmt.Sprintf("roll%d_%d", i, a), From: "ev", GroupBy: []matview.Column{{Name: "i", Type: "int"}},
				Measures: []matview.Measure{{Name: "v", Expr: c.expr, Type: c.typ, Aggregate: a}},
			}
			err := r.Create(t.Context(), pool)
			if c.refused == "" && err != nil || c.refused != "" && (!errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("aggregate %d of %s as %s: got %v, want a refusal with %q", a, c.expr, c.typ, err, c.refused)
			}
		}
	}
	r := matview.Rollup{
		Table: "by_ci", From: "ev", GroupBy: []matview.Column{{Name: "ci", Type: "ext.citext"}}, Measures: []matview.Measure{{Name: "n", Aggregate: matview.AggregateCount}},
	}
	if err := r.Create(t.Context(), pool); err != nil {
		t.Errorf("groups of a type whose operators are not found: %v, want none where no rows are replaced", err)
	}
	r.Table, r.Replaces = "by_ci_replaced", true
	if err := r.Create(t.Context(), pool); !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), "whose operator = is not found") {
		t.Errorf("groups of a type whose operators are not found: %v, want a refusal where rows are replaced", err)
	}
}

// Values whose column rounds them, and the smallest of an integer type, are taken out again.
func TestReplacedValuesAtTheEdge(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE orders (id int PRIMARY KEY, at timestamptz, product text, amount numeric(12,2))`)
	r := matview.Rollup{
		Table: "edge", From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}}, Replaces: true,
		Measures: []matview.Measure{
			{Name: "low", Expr: "amount", Type: "numeric(12,1)", Aggregate: matview.AggregateMin},
			{Name: "high", Expr: "amount", Type: "integer", Aggregate: matview.AggregateMax},
			{Name: "small", Expr: "(-32768 + 0 * amount)::smallint", Aggregate: matview.AggregateSum},
			{Name: "whole", Expr: "(-2147483648 + 0 * amount)::int", Aggregate: matview.AggregateAverage},
			{Name: "big", Expr: "(-9223372036854775808 + 0 * amount)::bigint", Aggregate: matview.AggregateSum},
			{Name: "span", Expr: "amount * interval '-1 month'", Type: "interval", Aggregate: matview.AggregateSum},
		},
	}
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	ink, no := "ink", (*string)(nil)
	for _, step := range [][2]string{{"2.74", "2.36"}, {"2.36", "2.74"}, {"2.5", "2.5"}, {"2.74", "2.74"}, {"", "1"}, {"2", ""}} {
		amounts := []*string{&step[0], &step[1]}
		for i, a := range step {
			if a == "" {
				amounts[i] = nil
			}
		}
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			return replaceRows(t.Context(), tx, r, []int32{1, 2}, []*string{no, no}, []*string{&ink, &ink}, amounts)
		})
		if err != nil {
			t.Fatal(err)
		}
		same(t, pool, r)
	}
}

// Distinct values are those of the measure's type, also where that has fewer than the expression.
func TestDistinctValuesAreThoseOfTheType(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	for i, c := range []struct {
		expr, typ string
		distinct  int
	}{{"amount", "integer", 2}, {"amount", "numeric(12,1)", 3}, {"amount", "text", 4}, {"at AT TIME ZONE 'UTC'", "date", 1}, {"product", "varchar(1)", 1}, {"product || ' '", "character(9)", 2}} {
		for _, replaces := range []bool{false, true} {
			exec(t, pool, `TRUNCATE orders`)
			r := matview.Rollup{
				Table: fmt.Sprintf("by_type_%d_%v", i, replaces), From: "orders", GroupBy: []matview.Column{{Name: "one", Expr: "1", Type: "int"}}, Replaces: replaces,
				Measures: []matview.Measure{{Name: "v", Expr: c.expr, Type: c.typ, Aggregate: matview.AggregateDistinct}},
			}
			if err := r.Create(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			sql, err := promotionSQL(r, `INSERT INTO orders VALUES ('2026-01-01 08:00', 'pen', 1.50), ('2026-01-01 09:00', 'pin', 1.54), ('2026-01-01 08:00', 'pen', 1.60), ('2026-01-01 09:00', 'pin', 1.44)`)
			if err != nil {
				t.Fatal(err)
			}
			exec(t, pool, sql)
			same(t, pool, r)
			want(t, "distinct "+c.expr+" as "+c.typ, one[int](t, pool, `SELECT v::int FROM "`+r.Table+`"`), c.distinct)
		}
	}
}

// A roll-up whose keys have another collation than the table's is repaired.
func TestRebuildKeysOfAnotherCollation(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE orders (code text COLLATE "C", v varchar(9) COLLATE "C", c character(5) COLLATE "C", tags text[] COLLATE "C")`)
	for i, key := range []matview.Column{{Name: "code", Type: "text"}, {Name: "v", Type: "varchar(9)"}, {Name: "v", Type: "text"}, {Name: "c", Type: "character(5)"}, {Name: "tags", Type: "text[]"}} {
		for _, replaces := range []bool{false, true} {
			r := matview.Rollup{
				Table: fmt.Sprintf("by_code_%d_%v", i, replaces), From: "orders", GroupBy: []matview.Column{key}, Replaces: replaces,
				Measures: []matview.Measure{
					{Name: "n", Aggregate: matview.AggregateCount}, {Name: "codes", Expr: "code", Type: "text", Aggregate: matview.AggregateDistinct},
					{Name: "fixed", Expr: "c", Type: "character(5)", Aggregate: matview.AggregateDistinct},
					{Name: "lists", Expr: "tags", Type: "text[]", Aggregate: matview.AggregateDistinct},
				},
			}
			exec(t, pool, `TRUNCATE orders`, `INSERT INTO orders VALUES ('a', 'a', 'a', '{a}'), ('A', 'A', 'A', '{A}'), ('b', 'b', 'b', '{b}'), (NULL, NULL, NULL, NULL)`)
			if err := r.Create(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Rebuild(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			exec(t, pool, `DELETE FROM orders WHERE code = 'b'`, `UPDATE "`+r.Table+`" SET n = 7 WHERE left(`+key.Name+`::text, 2) IN ('A', 'A ', '{A')`)
			if n, err := r.Rebuild(t.Context(), pool); err != nil || n < 2 {
				t.Errorf("%s as %s, replaces %v: rebuild changed %d rows, %v, want 2 or more", key.Name, key.Type, replaces, n, err)
			}
			same(t, pool, r)
		}
	}
}

// A sum is recomputed when a value is replaced that was not finite: NaN - NaN is not 0.
func TestReplacedValuesThatAreNotFinite(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE orders (id int PRIMARY KEY, at timestamptz, product text, amount numeric)`)
	r := matview.Rollup{
		Table: "sums", From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}}, Replaces: true,
		Measures: []matview.Measure{
			{Name: "total", Expr: "amount", Aggregate: matview.AggregateSum},
			{Name: "mean", Expr: "amount", Aggregate: matview.AggregateAverage},
			// An infinite interval exists since PostgreSQL 17, and the sum of two opposite ones does not.
			{Name: "span", Type: "interval", Aggregate: matview.AggregateSum, Expr: `CASE WHEN amount = 'NaN' THEN NULL
				WHEN abs(amount) < 'Infinity' OR current_setting('server_version_num')::int >= 170000 THEN amount * interval '1 month' END`},
		},
	}
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	ink, two := "ink", "2.5"
	for _, amount := range []string{"NaN", "1", "Infinity", "Infinity", "2", "-Infinity", "Infinity", "-Infinity", "3"} {
		if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			return replaceRows(t.Context(), tx, r, []int32{1, 2}, []*string{nil, nil}, []*string{&ink, &ink}, []*string{&amount, &two})
		}); err != nil {
			t.Fatal(err)
		}
		same(t, pool, r)
	}
}

// From one end of a type to the other is a change that the type does not hold, and the sum fits.
// The group is recomputed. A sum that does not fit fails the promotion.
func TestReplacedSumsAcrossTheType(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE orders (id int PRIMARY KEY, at timestamptz, product text, amount numeric(12,2))`)
	r := matview.Rollup{
		Table: "wide", From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}}, Replaces: true,
		Measures: []matview.Measure{
			{Name: "tiny", Expr: "(32767 * amount)::smallint", Type: "pg_catalog.int2", Aggregate: matview.AggregateSum},
			{Name: "whole", Expr: "(2147483647 * amount)::int", Type: "Integer", Aggregate: matview.AggregateAverage},
			{Name: "big", Expr: "(9223372036854775807 * amount)::bigint", Type: "bigint", Aggregate: matview.AggregateSum},
			{Name: "cents", Expr: "(900 * amount)::numeric(5,2)", Type: "numeric (5, 2)", Aggregate: matview.AggregateSum},
			{Name: "coarse", Expr: "(900 * amount)::numeric(1,-2)", Type: "decimal(1,-2)", Aggregate: matview.AggregateSum},
			{Name: "fine", Expr: "(0.09 * amount)::numeric(1,2)", Type: "numeric(1,2)", Aggregate: matview.AggregateAverage},
			{Name: "values", Expr: "amount", Type: "numeric", Aggregate: matview.AggregateDistinct},
		},
	}
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	ink := "ink"
	put := func(ids []int32, amounts ...string) error {
		var values, products, times []*string
		for i := range amounts {
			values, products, times = append(values, &amounts[i]), append(products, &ink), append(times, nil)
		}
		return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			return replaceRows(t.Context(), tx, r, ids, times, products, values)
		})
	}
	for _, step := range [][]string{{"-1"}, {"1"}, {"-1"}, {"-1", "1"}, {"1", "-1"}, {"0", "1"}, {"0", "-1"}} {
		if err := put([]int32{1, 2}[:len(step)], step...); err != nil {
			t.Fatalf("rows %v: %v", step, err)
		}
		same(t, pool, r)
	}
	if err := put([]int32{1, 2}, "1", "1"); err == nil || !strings.Contains(err.Error(), "22003") {
		t.Errorf("a sum that does not fit: got %v, want 22003", err)
	}
	same(t, pool, r)
}

// A domain with a constraint is refused where values are added up: a part of a sum, or a change,
// need not keep it.
func TestSumsInADomain(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	exec(t, pool, `CREATE DOMAIN plain AS numeric`, `CREATE DOMAIN paid AS plain CHECK (value >= 0)`, `CREATE DOMAIN sure AS bigint NOT NULL`, `CREATE DOMAIN rich AS paid`)
	for i, c := range []struct {
		typ     string
		refused bool
	}{{"plain", false}, {"paid", true}, {"sure", true}, {"rich", true}} {
		for _, a := range []matview.Aggregate{matview.AggregateSum, matview.AggregateAverage, matview.AggregateCount} {
			r := matview.Rollup{
				Table: fmt.Sprintf("in_domain%d_%d", i, a), From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}},
				Measures: []matview.Measure{{Name: "n", Aggregate: matview.AggregateCount}, {Name: "v", Expr: "amount::bigint", Type: c.typ, Aggregate: a}},
			}
			err := r.Create(t.Context(), pool)
			if c.refused != (errors.Is(err, matview.ErrConfig) && strings.Contains(err.Error(), "Measures[1].Type (column v)")) || !c.refused && err != nil {
				t.Errorf("aggregate %d as %s: got %v, want a refusal: %v", a, c.typ, err, c.refused)
			}
		}
	}
}
