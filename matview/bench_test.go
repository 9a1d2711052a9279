package matview_test

import (
	"fmt"
	"testing"

	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
)

// matview/rollup: 5,000 new rows reach a table of 500,000, and the dashboard. Bare inserts them and
// refreshes a materialized view of the aggregate, concurrently, as a dashboard needs it; ours
// inserts and merges them in one statement.
func BenchmarkFigures(b *testing.B) {
	const rows, delta = 500_000, 5_000
	pool := servertest.Postgres(b)
	columns := `id, timestamptz '2026-01-01 00:00Z' + id % 2000 * interval '1 minute' AS at, 'product ' || id % 15 AS product, (id % 977)::numeric / 4 AS amount`
	exec(b, pool, `CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz NOT NULL, product text NOT NULL, amount numeric NOT NULL)`)
	r := matview.Rollup{
		Table:   "sales",
		From:    "orders",
		GroupBy: []matview.Column{{Name: "hour", Expr: "date_trunc('hour', at, 'UTC')", Type: "timestamptz"}, {Name: "product", Type: "text"}},
		Measures: []matview.Measure{
			{Name: "n", Aggregate: matview.AggregateCount},
			{Name: "total", Expr: "amount", Aggregate: matview.AggregateSum},
			{Name: "high", Expr: "amount", Aggregate: matview.AggregateMax, Type: "numeric"},
		},
	}
	if err := r.Create(b.Context(), pool); err != nil {
		b.Fatal(err)
	}
	refresh := `REFRESH MATERIALIZED VIEW CONCURRENTLY sales_view`
	exec(b, pool, fmt.Sprintf(`INSERT INTO orders SELECT %s FROM generate_series(1, %d) id`, columns, rows),
		`CREATE MATERIALIZED VIEW sales_view AS SELECT date_trunc('hour', at, 'UTC') AS hour, product, count(*) AS n, sum(amount) AS total, max(amount) AS high FROM orders GROUP BY 1, 2`,
		`CREATE UNIQUE INDEX ON sales_view (hour, product)`, `VACUUM ANALYZE orders`)
	if _, err := r.Rebuild(b.Context(), pool); err != nil {
		b.Fatal(err)
	}
	insert := fmt.Sprintf(`INSERT INTO orders SELECT %s FROM generate_series(%d, %d) id`, columns, rows+1, rows+delta)
	promotion, err := promotionSQL(r, insert)
	if err != nil {
		b.Fatal(err)
	}
	bench.Run(b, bench.Figure{
		Name: "matview/rollup",
		// Both start from the 500,000 rows.
		Setup: func(int) {
			exec(b, pool, fmt.Sprintf(`DELETE FROM orders WHERE id > %d`, rows), refresh, `VACUUM orders`, `VACUUM sales`)
			if _, err := r.Rebuild(b.Context(), pool); err != nil {
				b.Fatal(err)
			}
		},
		Bare: func(int) int { exec(b, pool, insert, refresh); return delta },
		Ours: func(int) int { exec(b, pool, promotion); return delta },
	})
}
