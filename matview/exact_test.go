package matview_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
	"github.com/jackc/pgx/v5/pgxpool"
)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// Each type of sum is either refused, or equals the recomputation after many small promotions.
func TestSumsAreExactOrRefused(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE DOMAIN price AS numeric(12, 2)`, `CREATE DOMAIN reading AS double precision`,
		`CREATE TABLE ev (kind text, i2 smallint, i8 bigint, n numeric, n4 numeric(12, 4), n0 numeric(9), hundreds numeric(9, -2), f4 real, f8 double precision,
			m money, d interval, p price, r reading)`)
	for i, c := range []struct{ expr, typ, refused string }{
		{"i2", "", ""}, {"i8", "bigint", ""}, {"i8", "integer", ""}, {"i8", "numeric(30, 4)", ""}, {"i8 * 2", "bigint", ""},
		{"i8", "numeric(12, -2)", "take numeric"}, {"i8", "real", "take numeric"}, {"i8", "double precision", "take numeric"},
		{"n", "", ""}, {"n", "numeric(20, 2)", "take numeric"}, {"n", "bigint", "take numeric"}, {"n", "double precision", "take numeric"},
		{"n4", "", ""}, {"n4", "numeric(20, 4)", ""}, {"n4", "numeric(20, 6)", ""}, {"n4", "numeric(20, 2)", "at least 4 decimals"}, {"n4", "bigint", "at least 4 decimals"},
		{"n4 * 2", "numeric(20, 4)", "take numeric"}, {"round(n4, 2)::numeric(12, 2)", "numeric(20, 2)", ""},
		{"n0", "bigint", ""}, {"hundreds", "numeric(20, -2)", ""}, {"hundreds", "numeric(20, -3)", "take numeric"},
		{"f4", "", "write (f4)::numeric"}, {"f8", "", "write (f8)::numeric"}, {"f8", "double precision", "write (f8)::numeric"}, {"f8 * n", "numeric", "write (f8 * n)::numeric"},
		{"r", "", "write (r)::numeric"}, {"(f8)::numeric", "", ""}, {"f4::numeric", "", ""},
		{"m", "money", ""}, {"m", "numeric", "take money"}, {"d", "interval", ""}, {"d", "interval(0)", "take interval"}, {"p", "", ""}, {"p", "price", ""},
	} {
		r := matview.Rollup{
			Table: fmt.Sprintf("roll%d", i), From: "ev", GroupBy: []matview.Column{{Name: "kind", Type: "text"}},
			Measures: []matview.Measure{{Name: "v", Expr: c.expr, Type: c.typ, Aggregate: matview.AggregateSum}},
		}
		err := r.Create(t.Context(), pool)
		if c.refused != "" {
			if !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("sum of %s as %q: got %v, want a refusal with %q", c.expr, c.typ, err, c.refused)
			}
			continue
		}
		if err != nil {
			t.Errorf("sum of %s as %q: %v", c.expr, c.typ, err)
			continue
		}
		addEvents(t, pool, r)
		if diffs, err := r.Check(t.Context(), pool, 3); len(diffs) > 0 || err != nil {
			t.Errorf("sum of %s as %q: %v %v", c.expr, c.typ, diffs, err)
		}
	}
}

// addEvents promotes 40 times into an empty table.
func addEvents(t testing.TB, pool *pgxpool.Pool, r matview.Rollup) {
	t.Helper()
	exec(t, pool, `TRUNCATE ev`)
	for i := range 40 {
		promotion, err := promotionSQL(r, fmt.Sprintf(`
			INSERT INTO ev SELECT nullif('k' || g %% 3, 'k2'), g, g * 1000003, 0.3333 + g * 1e-9, 0.3333, g + %[1]d, 250 * g, 0.1, 0.1 + g, 0.33::money, '0.333 s', 1.005, 0.1
			FROM generate_series(1, 5) g`, i))
		if err != nil {
			t.Fatal(err)
		}
		exec(t, pool, promotion)
	}
}

// Counts and other aggregates.
func TestCountsAreExactOrRefused(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	for _, typ := range []string{"real", "double precision", "text", "numeric(9, -1)"} {
		r := daily()
		r.Measures[0].Type = typ
		if err := r.Create(t.Context(), pool); !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), "must be exact for a count") {
			t.Errorf("count as %s: got %v, want a refusal", typ, err)
		}
	}
	r := daily()
	r.Measures[0].Type = "numeric(9, 0)"
	if err := r.Create(t.Context(), pool); err != nil {
		t.Error(err)
	}
}

// Every table of the database is published: a table without a replica identity refuses every merge.
// The key may be NULL, so it cannot be a primary key.
func TestPublicationForAllTables(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	exec(t, pool, `ALTER TABLE orders REPLICA IDENTITY FULL`, `CREATE PUBLICATION everything FOR ALL TABLES`)
	r := daily()
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	rnd := newRand(1)
	for range 3 {
		if err := promote(t.Context(), pool, r, rnd, 50, 3); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, pool, `UPDATE "odd ""Daily" SET n = n + 1 WHERE product IS NULL`, `DELETE FROM "odd ""Daily" WHERE product = 'p0'`)
	if n, err := r.Rebuild(t.Context(), pool); err != nil || n == 0 {
		t.Errorf("rebuild changed %d groups: %v", n, err)
	}
	same(t, pool, r)
	exec(t, pool, `CREATE TABLE sales (product text, amount numeric)`)
	refresher := newRefresher(t, pool, matview.Config{Views: twoViews()})
	for range 2 {
		if _, err := refresher.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
	}

	// A roll-up that was made without: Create repairs it, Verify names the statement.
	exec(t, pool, `ALTER TABLE "odd ""Daily" REPLICA IDENTITY DEFAULT`, `DROP INDEX "odd ""Daily_day_product_idx"`)
	err := r.Verify(t.Context(), pool)
	var drift *matview.DriftError
	if !errors.As(err, &drift) || len(drift.Differences) != 2 || !strings.Contains(drift.Fix, "REPLICA IDENTITY FULL") || !strings.Contains(drift.Fix, "NULLS NOT DISTINCT") {
		t.Errorf("got %v, want two differences and their statements", err)
	}
	if err := r.Create(t.Context(), pool); err != nil {
		t.Error(err)
	}
	if err := r.Verify(t.Context(), pool); err != nil {
		t.Error(err)
	}
}

// The partitions of a roll-up need a replica identity each: they do not inherit it.
func TestPublicationOfAPartitionedRollup(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	exec(t, pool, `ALTER TABLE orders REPLICA IDENTITY FULL`, `CREATE PUBLICATION everything FOR ALL TABLES`,
		`CREATE TABLE totals (product text, total numeric) PARTITION BY LIST (product)`,
		`CREATE TABLE totals_a PARTITION OF totals FOR VALUES IN ('p0', 'p1') PARTITION BY LIST (product)`,
		`CREATE TABLE "totals A" PARTITION OF totals_a DEFAULT`, `CREATE TABLE totals_rest PARTITION OF totals DEFAULT`)
	r := matview.Rollup{
		Table: "totals", From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}},
		Measures: []matview.Measure{{Name: "total", Expr: "amount", Aggregate: matview.AggregateSum}},
	}
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(2) {
		if err := promote(t.Context(), pool, r, newRand(seed), 30, 4); err != nil {
			t.Fatal(err)
		}
	}
	same(t, pool, r)
	exec(t, pool, `ALTER TABLE "totals A" REPLICA IDENTITY DEFAULT`)
	if err := r.Verify(t.Context(), pool); !errors.Is(err, matview.ErrDrift) || !strings.Contains(err.Error(), `ALTER TABLE "totals A" REPLICA IDENTITY FULL`) {
		t.Errorf("got %v, want a drift that names the partition", err)
	}
}

// A publication that leaves out generated columns keeps PostgreSQL 18 from updating a roll-up of
// averages. Create refuses it there, and no other one.
func TestPublicationWithoutGeneratedColumns(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	exec(t, pool, `CREATE PUBLICATION everything FOR ALL TABLES`)
	r := matview.Rollup{Table: "means", From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}},
		Measures: []matview.Measure{{Name: "mean", Expr: "amount", Aggregate: matview.AggregateAverage}}}
	sql, err := r.SQL()
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, sql, `INSERT INTO means (product) VALUES ('a')`)
	_, refusal := pool.Exec(t.Context(), `UPDATE means SET product = 'b'`)
	exec(t, pool, `DROP TABLE means`)
	created := r.Create(t.Context(), pool)
	if refusal == nil {
		if created != nil {
			t.Errorf("Postgres updates the roll-up, and Create returns %v", created)
		}
		return
	}
	if !errors.Is(created, matview.ErrConfig) || !strings.Contains(created.Error(), "ALTER PUBLICATION everything SET (publish_generated_columns = stored)") {
		t.Errorf("Postgres returns %v, and Create %v", refusal, created)
	}
	exec(t, pool, `ALTER PUBLICATION everything SET (publish_generated_columns = stored)`)
	if err := r.Create(t.Context(), pool); err != nil {
		t.Error(err)
	}
	if err := promote(t.Context(), pool, r, newRand(1), 50, 3); err != nil {
		t.Error(err)
	}
	exec(t, pool, `ALTER PUBLICATION everything SET (publish_generated_columns = none)`)
	if err := r.Verify(t.Context(), pool); !errors.Is(err, matview.ErrConfig) {
		t.Errorf("Verify returns %v, want ErrConfig", err)
	}
}
