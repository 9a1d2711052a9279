package matview_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// full has every aggregate.
func full(replaces bool) matview.Rollup {
	r := daily()
	r.Replaces = replaces
	r.Measures = append(r.Measures,
		matview.Measure{Name: "mean", Expr: "amount", Aggregate: matview.AggregateAverage},
		matview.Measure{Name: "amounts", Expr: "amount", Aggregate: matview.AggregateDistinct, Type: "numeric"},
		matview.Measure{Name: "hours", Expr: "at", Aggregate: matview.AggregateDistinct, Type: "timestamptz"},
		matview.Measure{Name: "about", Expr: "amount", Aggregate: matview.AggregateSketch, Precision: 5},
	)
	return r
}

// Every aggregate equals its recomputation after every promotion, into a table that is partitioned.
func TestEveryAggregate(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE orders (at timestamptz, product text, amount numeric(12,2)) PARTITION BY LIST (product)`,
		`CREATE TABLE orders_a PARTITION OF orders FOR VALUES IN ('p0', 'p1')`, `CREATE TABLE orders_b PARTITION OF orders DEFAULT`)
	r := full(false)
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	rnd := newRand(3)
	for range 8 {
		if err := promote(t.Context(), pool, r, rnd, 1+rnd.IntN(300), 4); err != nil {
			t.Fatal(err)
		}
		same(t, pool, r)
	}
	want(t, "averages that differ", one[int](t, pool, `SELECT count(*)::int FROM "odd ""Daily" d WHERE mean IS DISTINCT FROM
		(SELECT avg(amount) FROM orders WHERE date_trunc('day', at, 'UTC') IS NOT DISTINCT FROM d.day AND product IS NOT DISTINCT FROM d.product)`), 0)
}

// replace writes n random rows by key, as a promotion with ConflictReplace does. A row that is
// there is replaced, and may move to another group.
func replace(t testing.TB, tx pgx.Tx, r matview.Rollup, rnd *rand.Rand, n, keys int) {
	t.Helper()
	var ids []int32
	var times, products, amounts []*string
	value := func(format string, args ...any) *string {
		if rnd.IntN(6) == 0 {
			return nil
		}
		s := fmt.Sprintf(format, args...)
		return &s
	}
	for _, id := range rnd.Perm(keys)[:n] {
		ids = append(ids, int32(id))
		times = append(times, value("2026-01-%02d 10:00:00+00", 1+rnd.IntN(3)))
		products = append(products, value("p%d", rnd.IntN(3)))
		amounts = append(amounts, value("%d", rnd.IntN(20)))
	}
	if err := replaceRows(t.Context(), tx, r, ids, times, products, amounts); err != nil {
		t.Fatal(err)
	}
}

// replaceRows takes the lock that such a promotion takes, inserts, merges and settles.
func replaceRows(ctx context.Context, tx pgx.Tx, r matview.Rollup, ids []int32, times, products, amounts []*string) error {
	merges, err := r.Merges()
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE`); err != nil {
		return err
	}
	sql := `WITH promoted AS (
			INSERT INTO orders SELECT * FROM unnest($1::int[], $2::timestamptz[], $3::text[], $4::numeric[])
			ON CONFLICT (id) DO UPDATE SET at = excluded.at, product = excluded.product, amount = excluded.amount RETURNING *
		), replaced AS (
			SELECT o.* FROM promoted p CROSS JOIN LATERAL (SELECT * FROM orders WHERE id = p.id OFFSET 0) o
		)`
	for _, m := range merges {
		sql += ", " + pgx.Identifier{m.Name}.Sanitize() + " AS (" + m.SQL + ")"
	}
	if _, err := tx.Exec(ctx, sql+" SELECT", ids, times, products, amounts); err != nil {
		return err
	}
	for _, m := range merges {
		if m.Then != "" {
			if _, err := tx.Exec(ctx, m.Then); err != nil {
				return fmt.Errorf("%s: %w", m.Then, err)
			}
		}
	}
	return nil
}

// replacingRollups are one that has a maximum to recompute, and one that has a sketch and values
// too.
func replacingRollups() map[string]matview.Rollup {
	plain := daily()
	plain.Replaces = true
	return map[string]matview.Rollup{"minimum and maximum": plain, "every aggregate": full(true)}
}

// replaceFive makes a table with a row of 5 and a roll-up that is empty, and returns a promotion
// that replaces the 5 by a 3.
func replaceFive(t *testing.T, r matview.Rollup) (pool *pgxpool.Pool, promotion func(tx pgx.Tx) error) {
	t.Helper()
	pool = servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE orders (id int PRIMARY KEY, at timestamptz, product text, amount numeric(12,2))`,
		`INSERT INTO orders VALUES (1, '2026-01-01 10:00Z', 'ink', 5), (2, NULL, 'pen', 7)`)
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	at, product, amount := "2026-01-01 10:00Z", "ink", "3"
	return pool, func(tx pgx.Tx) error {
		return replaceRows(t.Context(), tx, r, []int32{1}, []*string{&at}, []*string{&product}, []*string{&amount})
	}
}

const inkSQL = `SELECT concat_ws(' ', n, total, low, high, headrace_rows, headrace_stale) FROM "odd ""Daily" WHERE product = 'ink'`

// An empty roll-up is filled while a promotion that replaces rows has merged and not yet committed.
// The fill waits. Otherwise it would add the replaced row, and its maximum would stay.
func TestFillWaitsForAReplacement(t *testing.T) {
	t.Parallel()
	for name, r := range replacingRollups() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, promotion := replaceFive(t, r)
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // committed below
			if err := promotion(tx); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := r.Rebuild(t.Context(), pool)
				done <- err
			}()
			untilLocked(t, pool, done)
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			want(t, "ink", one[string](t, pool, inkSQL), "1 3.00 3.00 3 1 f")
			same(t, pool, r)
		})
	}
}

// A promotion that replaces rows begins while an empty roll-up has been filled and is not yet
// committed. The promotion waits before it reads. Otherwise it would not see that it takes the
// maximum away.
func TestAReplacementWaitsForTheFill(t *testing.T) {
	t.Parallel()
	for name, r := range replacingRollups() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, promotion := replaceFive(t, r)
			tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.ReadCommitted}) // as Rebuild begins one
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // committed below
			if n, err := r.Rebuild(t.Context(), tx); n != 2 || err != nil {
				t.Fatalf("fill: %d groups, %v, want 2", n, err)
			}
			done := make(chan error, 1)
			go func() { // as a promotion begins
				done <- pgx.BeginTxFunc(t.Context(), pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, promotion)
			}()
			untilLocked(t, pool, done)
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			want(t, "ink", one[string](t, pool, inkSQL), "1 3.00 3.00 3 1 f")
			same(t, pool, r)
		})
	}
}

// Rebuild writes the rows that are wrong and no others, also after promotions that have replaced
// rows: what the last one added to a value is not compared.
func TestRepairWritesOnlyWhatDiffers(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE orders (id int PRIMARY KEY, at timestamptz, product text, amount numeric(12,2))`)
	r := full(true)
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	rnd := newRand(11)
	for range 5 {
		if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { replace(t, tx, r, rnd, 60, 80); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	same(t, pool, r)
	if n := one[int](t, pool, `SELECT count(*)::int FROM "odd ""Daily_amounts" WHERE headrace_change <> 0`); n < 10 {
		t.Fatalf("%d values have a change, want 10 or more", n)
	}
	const first = `WHERE headrace_value = (SELECT min(headrace_value) FROM "odd ""Daily_amounts" WHERE product = 'p1' AND day = '2026-01-01Z')
		AND product = 'p1' AND day = '2026-01-01Z'`
	const last = `WHERE headrace_value = (SELECT max(headrace_value) FROM "odd ""Daily_amounts" WHERE product = 'p2' AND day = '2026-01-02Z')
		AND product = 'p2' AND day = '2026-01-02Z'`
	for _, fault := range []struct {
		sql         string
		differences int
		changed     int64
	}{
		{`UPDATE "odd ""Daily" SET n = n + 1 WHERE product = 'p1' AND day = '2026-01-01Z'`, 1, 1},
		{`UPDATE "odd ""Daily_amounts" SET headrace_n = headrace_n + 1 ` + first, 1, 1},
		{`UPDATE "odd ""Daily_amounts" SET headrace_stale = true ` + first, 1, 1}, // the next promotion would delete it
		{`DELETE FROM "odd ""Daily_amounts" ` + last, 1, 1},
		{`UPDATE "odd ""Daily_amounts" SET headrace_value = -1 ` + last, 2, 2},
		{`UPDATE "odd ""Daily_amounts" SET headrace_change = headrace_change + 1`, 0, 0},
	} {
		exec(t, pool, fault.sql)
		diffs, err := r.Check(t.Context(), pool, 0)
		if err != nil || len(diffs) != fault.differences {
			t.Errorf("%s: got %d differences, %v, want %d: %v", fault.sql, len(diffs), err, fault.differences, diffs)
		}
		if n, err := r.Rebuild(t.Context(), pool); err != nil || n != fault.changed {
			t.Errorf("%s: rebuild changed %d rows, %v, want %d", fault.sql, n, err, fault.changed)
		}
		same(t, pool, r)
	}
}

// Rows that replace others take the old values out: sums and counts, the minimum that was replaced,
// the last row of a group, the last one with a value. That is so with an index on the key's
// expressions and without one.
func TestReplacedRowsAreTakenOut(t *testing.T) {
	t.Parallel()
	// PostgreSQL 15 indexes no date_trunc of a time with a zone.
	const day = `date_trunc('day', at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'`
	for _, index := range []string{`SELECT`, `CREATE INDEX ON orders ((` + day + `), product)`} {
		pool := servertest.Postgres(t)
		exec(t, pool, `CREATE TABLE orders (id int PRIMARY KEY, at timestamptz, product text, amount numeric(12,2))`, index)
		r := full(true)
		r.GroupBy[0].Expr = day
		if err := r.Create(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		if err := r.Verify(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		rnd := newRand(5)
		for round := range 40 {
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				for range 1 + rnd.IntN(3) { // a promotion may write in parts
					replace(t, tx, r, rnd, 1+rnd.IntN(25), 40)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			same(t, pool, r)
			if t.Failed() {
				t.Fatalf("in round %d", round)
			}
		}
		want(t, "stale groups", one[int](t, pool, `SELECT count(*)::int FROM "odd ""Daily" WHERE headrace_stale`), 0)
	}
}

// An empty roll-up of every kind is filled by Rebuild, and a wrong one is repaired, its tables of
// distinct values too.
func TestRebuildOfEveryAggregate(t *testing.T) {
	t.Parallel()
	for _, replaces := range []bool{false, true} {
		pool := newTarget(t)
		exec(t, pool, `INSERT INTO orders SELECT timestamptz '2026-01-01Z' + i % 3 * interval '1 day', nullif('p' || i % 4, 'p3'), nullif(i % 9, 5) FROM generate_series(1, 200) i`)
		r := full(replaces)
		if err := r.Create(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		if n, err := r.Rebuild(t.Context(), pool); err != nil || n != 12 {
			t.Errorf("fill: %d groups, %v, want 12", n, err)
		}
		same(t, pool, r)
		if n, err := r.Rebuild(t.Context(), pool); err != nil || n != 0 {
			t.Errorf("rebuild of what is right: %d groups, %v, want 0", n, err)
		}
		table := `"odd ""Daily_amounts_values"`
		if replaces {
			table = `"odd ""Daily_amounts"`
		}
		exec(t, pool, `UPDATE "odd ""Daily" SET mean_sum = 1, about_sketch = ~about_sketch WHERE product = 'p1'`,
			`DELETE FROM `+table+` WHERE headrace_value = 3`, `UPDATE "odd ""Daily" SET day = '2020-01-01Z' WHERE product IS NULL AND day = '2026-01-02Z'`)
		if diffs, err := r.Check(t.Context(), pool, 0); err != nil || len(diffs) < 6 {
			t.Errorf("got %d differences, %v, want those of three faults: %v", len(diffs), err, diffs)
		}
		exec(t, pool, `UPDATE "odd ""Daily" SET mean_sum = mean_sum`)
		if n, err := r.Rebuild(t.Context(), pool); err != nil || n < 6 {
			t.Errorf("repair: %d rows, %v", n, err)
		}
		same(t, pool, r)
	}
}

// Only a table of distinct values is wrong: Check and Rebuild find that too.
func TestOnlyTheValuesAreWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, typ, damage, want string }{
		{
			"another value", "price", `UPDATE by_product_prices SET headrace_value = 3 WHERE headrace_value = 2`,
			`["by_product_prices" (ink, 2.00): have none, want () "by_product_prices" (ink, 3): have (), want none]`,
		},
		{
			"another numbered value", "numeric", `UPDATE by_product_prices_values SET headrace_value = 3 WHERE headrace_value = 2`,
			`["by_product_prices" (ink, 2.00): have none, want () "by_product_prices" (ink, 3): have (), want none]`,
		},
		{
			"no number", "numeric", `DELETE FROM by_product_prices_values WHERE headrace_value = 2`,
			`["by_product_prices" (ink, 2.00): have none, want () "by_product_prices" (ink, NULL): have (), want none]`,
		},
		{
			"one bit too many", "numeric", `UPDATE by_product_prices SET headrace_bits = set_bit(headrace_bits, 1023, 1)`,
			`["by_product_prices" (ink, NULL): have (), want none]`,
		},
		{
			"one bit too few", "numeric", `UPDATE by_product_prices SET headrace_bits = set_bit(headrace_bits, 0, 0)`,
			`["by_product_prices" (ink, 1.00): have none, want ()]`,
		},
		{
			"no set", "numeric", `DELETE FROM by_product_prices`,
			`["by_product_prices" (ink, 1.00): have none, want () "by_product_prices" (ink, 2.00): have none, want ()]`,
		},
		{
			"another group's set", "numeric", `INSERT INTO by_product_prices SELECT 'pen', headrace_chunk, headrace_bits, 0 FROM by_product_prices`,
			`["by_product_prices" (pen, 1.00): have (), want none "by_product_prices" (pen, 2.00): have (), want none]`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := newTarget(t)
			r := matview.Rollup{
				Table: "by_product", From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}},
				Measures: []matview.Measure{{Name: "prices", Expr: "amount", Aggregate: matview.AggregateDistinct, Type: c.typ}},
			}
			exec(t, pool, `CREATE DOMAIN price AS numeric`, `INSERT INTO orders VALUES (NULL, 'ink', 1), (NULL, 'ink', 2)`)
			if err := r.Create(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Rebuild(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			same(t, pool, r)
			exec(t, pool, c.damage)
			diffs, err := r.Check(t.Context(), pool, 0)
			want(t, "differences", fmt.Sprint(diffs, err), c.want+" <nil>")
			if n, err := r.Rebuild(t.Context(), pool); n == 0 || err != nil {
				t.Errorf("rebuild: %d, %v, want the rows that were wrong", n, err)
			}
			same(t, pool, r)
			if err := promote(t.Context(), pool, r, newRand(5), 20, 3); err != nil {
				t.Fatal(err)
			}
			same(t, pool, r)
		})
	}
}

// Values of each type are distinct as count(DISTINCT) takes them, in one promotion and over
// several.
func TestDistinctValuesOfEachType(t *testing.T) {
	t.Parallel()
	pool := servertest.UTF8Postgres(t) // ICU has no SQL_ASCII
	exec(t, pool, `CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`,
		`CREATE SCHEMA ext`, `CREATE EXTENSION citext SCHEMA ext`, `CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TYPE pair AS (n int, t text)`, `CREATE DOMAIN grade AS numeric CHECK (value >= 0)`)
	for i, c := range []struct{ typ, first, second string }{
		{"text", `'a', 'A', 'a ', '', NULL`, `'a', 'é', 'e', 'A'`},
		{"text COLLATE folded", `'a', 'A', 'b'`, `'B', 'c', NULL`},
		{"varchar(3)", `'abc', 'abd'`, `'abc', 'ab '`},
		{"char(4)", `'a', 'a  '`, `'a ', 'b'`},
		{"numeric", `1, 1.0, 1.00, 'NaN'`, `1.000, 'NaN', 'Infinity', -0.0, 0`},
		{"numeric(8, 2)", `1.001, 1.002`, `1.0, 2`},
		{"double precision", `'-0', 0, 'NaN'`, `'NaN', 1e-300, '-Infinity'`},
		{"timestamptz", `'2026-01-01 12:00+00', '2026-01-01 13:00+01', 'infinity'`, `'infinity', '-infinity', '4713-01-01 BC'`},
		{"interval", `'1 day', '24 hours', '1 month'`, `'30 days', '720 hours'`},
		{"jsonb", `'{"a": 1, "b": 2}', '{"b": 2, "a": 1.0}', 'null'`, `'{"a": 1}', '[]', NULL`},
		{"uuid", `'00000000-0000-0000-0000-00000000000A', '00000000-0000-0000-0000-00000000000a'`, `'00000000-0000-0000-0000-00000000000b'`},
		{"bytea", `decode('00', 'hex'), decode('0000', 'hex'), ''`, `decode('00', 'hex'), decode('ff', 'hex')`},
		{"boolean", `true, false, NULL`, `true`},
		{"inet", `'10.0.0.1', '10.0.0.1/32'`, `'10.0.0.1/24'`},
		{"ext.citext", `'a', 'A', 'b'`, `'B', 'c'`}, // its operators are not on the search path
		{"mood", `'good', 'bad'`, `'good', NULL`},
		{"grade", `1, 1.0`, `1.00, 2`},
		{"pair", `ROW(1, 'a'), ROW(1, NULL), ROW(NULL, NULL), NULL`, `ROW(NULL, NULL), ROW(2, NULL), NULL`}, // IS NOT NULL is true of the first alone
		{"int4range", `'[1,3)', '[1,2]'`, `'[1,3)', 'empty'`},
	} {
		t.Run(c.typ, func(t *testing.T) {
			t.Parallel()
			target := fmt.Sprintf("target_%d", i)
			exec(t, pool, `CREATE TABLE `+target+` (kind text, v `+c.typ+`)`)
			r := matview.Rollup{
				Table: fmt.Sprintf("rollup_%d", i), From: target, GroupBy: []matview.Column{{Name: "kind", Type: "text"}},
				Measures: []matview.Measure{{Name: "values", Expr: "v", Type: c.typ, Aggregate: matview.AggregateDistinct}},
			}
			if err := r.Create(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			if err := r.Verify(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			for _, list := range []string{c.first, c.second, c.first} {
				sql, err := promotionSQL(r, `INSERT INTO `+target+` SELECT kind, v FROM unnest(ARRAY['x', NULL]) kind, unnest(ARRAY[`+list+`]::`+elements(c.typ)+`) v`)
				if err != nil {
					t.Fatal(err)
				}
				exec(t, pool, sql)
				same(t, pool, r)
			}
			exec(t, pool, `UPDATE `+r.Table+` SET values = 99`)
			if _, err := r.Rebuild(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			same(t, pool, r)
		})
	}
}

// elements is an array of a type that may have a collation.
func elements(typ string) string {
	if base, collation, ok := strings.Cut(typ, " COLLATE "); ok {
		return base + "[] COLLATE " + collation
	}
	return typ + "[]"
}

// The numbers of many values are looked up one by one: a promotion of a few rows does not read them
// all.
func TestNumbersOfManyValues(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := matview.Rollup{
		Table: "by_product", From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}},
		Measures: []matview.Measure{{Name: "prices", Expr: "amount", Aggregate: matview.AggregateDistinct, Type: "numeric"}},
	}
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rows string
		all  bool // all numbers are read
	}{{"1, 3000", true}, {"2999, 3001", false}, {"1, 2500", true}, {"5000, 5010", false}, {"3000, 3000", false}} {
		sql, err := promotionSQL(r, `INSERT INTO orders SELECT NULL, 'p' || i % 3, i FROM generate_series(`+c.rows+`) i`)
		if err != nil {
			t.Fatal(err)
		}
		plan := one[string](t, pool, `EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, FORMAT JSON) `+sql)
		scans := regexp.MustCompile(`"Relation Name": "by_product_prices_values",(?s:.*?)"Actual Rows": ([0-9.]+),\s+"Actual Loops": (\d+)`).FindAllStringSubmatch(plan, -1)
		read := 0.0
		for _, m := range scans {
			rows, _ := strconv.ParseFloat(m[1], 64)
			loops, _ := strconv.ParseFloat(m[2], 64)
			read += rows * loops
		}
		if len(scans) < 2 || !c.all && read > 100 {
			t.Errorf("promotion of %s read %v numbers in %d scans:\n%s", c.rows, read, len(scans), plan)
		}
		same(t, pool, r)
	}
}

// Keys group as the table's own columns do. A type that would not is refused, and the error names
// one that does.
func TestKeysGroupAsTheTable(t *testing.T) {
	t.Parallel()
	pool := servertest.UTF8Postgres(t) // ICU has no SQL_ASCII
	exec(t, pool, `CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`, `CREATE EXTENSION IF NOT EXISTS citext`,
		`CREATE TABLE orders (product text COLLATE folded, brand citext, code text COLLATE "C", buyer text COLLATE folded)`)
	of := func(column, typ string) matview.Rollup {
		return matview.Rollup{
			Table: "by_" + column, From: "orders", GroupBy: []matview.Column{{Name: column, Type: typ}},
			Measures: []matview.Measure{{Name: "n", Aggregate: matview.AggregateCount}, {Name: "buyers", Expr: "buyer", Type: "text COLLATE folded", Aggregate: matview.AggregateDistinct}},
		}
	}
	for _, c := range []struct{ column, typ, refused string }{
		{"product", "text", "write text COLLATE folded"}, {"product", "text COLLATE folded", ""},
		{"brand", "text", "write citext"}, {"brand", "citext", ""},
		{"code", "text", ""},
	} {
		err := of(c.column, c.typ).Create(t.Context(), pool)
		if c.refused == "" && err != nil || c.refused != "" && (!errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s as %s: got %v, want a refusal with %q", c.column, c.typ, err, c.refused)
		}
	}
	rollups := []matview.Rollup{of("product", "text COLLATE folded"), of("brand", "citext"), of("code", "text")}
	for _, values := range []string{`('Ink', 'Acme', 'a', 'Ada'), ('INK', 'ACME', 'A', 'ADA')`, `('ink', 'acme', 'a', 'ada'), ('pen', NULL, NULL, 'Bob')`} {
		sql := `WITH promoted AS (INSERT INTO orders VALUES ` + values + ` RETURNING *)`
		for _, r := range rollups {
			merges, err := r.Merges()
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range merges {
				sql += ", " + pgx.Identifier{m.Name}.Sanitize() + " AS (" + m.SQL + ")"
			}
		}
		exec(t, pool, sql+" SELECT")
		for _, r := range rollups {
			same(t, pool, r)
		}
	}
	want(t, "ink", one[string](t, pool, `SELECT n || ' by ' || buyers FROM by_product WHERE product = 'ink'`), "3 by 1")
	exec(t, pool, `UPDATE by_product SET n = 7`)
	if diffs, err := rollups[0].Check(t.Context(), pool, 0); err != nil || len(diffs) != 2 {
		t.Errorf("got %v, %v, want two differences", diffs, err)
	}
}

// The estimate stays within four standard errors over the whole range, and sketches of parts merge
// to that of the whole.
func TestSketchError(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE orders (day int, v int)`)
	r := matview.Rollup{
		Table: "about", From: "orders", GroupBy: []matview.Column{{Name: "day", Type: "int"}},
		Measures: []matview.Measure{{Name: "n", Expr: "v", Aggregate: matview.AggregateSketch}},
	}
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	sizes := []int{0, 1, 2, 10, 100, 1000, 3000, 10_000, 40_000}
	for day, n := range sizes {
		exec(t, pool, fmt.Sprintf(`INSERT INTO orders SELECT %d, i FROM generate_series(1, %d) i`, day, n))
	}
	exec(t, pool, `INSERT INTO orders VALUES (0, NULL)`)
	if _, err := r.Rebuild(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	for day, n := range sizes {
		got := one[int](t, pool, `SELECT n::int FROM about WHERE day = $1`, day)
		if off := float64(got-n) / float64(max(n, 1)); off > 4*0.022 || off < -4*0.022 {
			t.Errorf("%d values: estimate %d, off by %.3f, want at most %.3f", n, got, off, 4*0.022)
		}
	}
	merged := one[int](t, pool, `SELECT `+matview.SketchCount("bit_or(n_sketch)")+`::int FROM about`)
	want(t, "all days together", merged, one[int](t, pool, `SELECT n::int FROM about WHERE day = $1`, len(sizes)-1))
}

// Two promotions give a new value its number at the same time: the second one waits, and takes the
// number of the first if that commits.
func TestTwoPromotionsOfANewValue(t *testing.T) {
	t.Parallel()
	for _, commit := range []bool{true, false} {
		pool := newTarget(t)
		r := matview.Rollup{
			Table: "by_product", From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}},
			Measures: []matview.Measure{{Name: "prices", Expr: "amount", Aggregate: matview.AggregateDistinct, Type: "numeric"}},
		}
		if err := r.Create(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		promotion := func(product string) string {
			sql, err := promotionSQL(r, `INSERT INTO orders SELECT NULL, '`+product+`', i FROM generate_series(1, 50) i`)
			if err != nil {
				t.Fatal(err)
			}
			return sql
		}
		readCommitted := pgx.TxOptions{IsoLevel: pgx.ReadCommitted} // as a promotion begins
		first, err := pool.BeginTx(t.Context(), readCommitted)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := first.Exec(t.Context(), promotion("ink")); err != nil {
			t.Fatal(err)
		}
		second := make(chan error, 1)
		sql := promotion("pen")
		go func() {
			second <- pgx.BeginTxFunc(context.WithoutCancel(t.Context()), pool, readCommitted, func(tx pgx.Tx) error {
				_, err := tx.Exec(context.WithoutCancel(t.Context()), sql)
				return err
			})
		}()
		untilLocked(t, pool, second)
		end := first.Rollback
		if commit {
			end = first.Commit
		}
		if err := end(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		same(t, pool, r)
		want(t, "pens", one[int](t, pool, `SELECT prices::int FROM by_product WHERE product = 'pen'`), 50)
	}
}
