package matview_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
		exec(t, pool, `UPDATE "odd ""Daily" SET mean_sum = 1, about_sketch = ~about_sketch WHERE product = 'p1'`,
			`DELETE FROM "odd ""Daily_amounts" WHERE headrace_value = 3`, `UPDATE "odd ""Daily" SET day = '2020-01-01Z' WHERE product IS NULL AND day = '2026-01-02Z'`)
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
	pool := newTarget(t)
	r := matview.Rollup{
		Table: "by_product", From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}},
		Measures: []matview.Measure{{Name: "prices", Expr: "amount", Aggregate: matview.AggregateDistinct, Type: "numeric"}},
	}
	exec(t, pool, `INSERT INTO orders VALUES (NULL, 'ink', 1), (NULL, 'ink', 2)`)
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rebuild(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `UPDATE by_product_prices SET headrace_value = 3 WHERE headrace_value = 2`)
	diffs, err := r.Check(t.Context(), pool, 0)
	want(t, "differences", fmt.Sprint(diffs, err), `["by_product_prices" (ink, 2.00): have none, want () "by_product_prices" (ink, 3): have (), want none] <nil>`)
	if n, err := r.Rebuild(t.Context(), pool); n != 2 || err != nil {
		t.Errorf("rebuild: %d, %v, want 2", n, err)
	}
	same(t, pool, r)
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
