package matview_test

import (
	"errors"
	"testing"

	"github.com/headrace/headrace/matview"
)

// TestCoarserLevels: views over a roll-up by hour come to the days that a roll-up of the same table
// has, for every aggregate that the package comment names. A roll-up of the roll-up is refused.
func TestCoarserLevels(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	by := func(table, unit string) matview.Rollup {
		return matview.Rollup{
			Table: table, From: "orders", GroupBy: []matview.Column{{Name: "at", Expr: "date_trunc('" + unit + "', at, 'UTC')", Type: "timestamptz"}},
			Measures: []matview.Measure{
				{Name: "n", Aggregate: matview.AggregateCount}, {Name: "total", Expr: "amount", Aggregate: matview.AggregateSum},
				{Name: "low", Expr: "amount", Type: "numeric", Aggregate: matview.AggregateMin}, {Name: "high", Expr: "amount", Type: "numeric", Aggregate: matview.AggregateMax},
				{Name: "mean", Expr: "amount", Aggregate: matview.AggregateAverage}, {Name: "products", Expr: "product", Aggregate: matview.AggregateSketch},
			},
		}
	}
	hourly, daily := by("hourly", "hour"), by("daily", "day")
	for _, r := range []matview.Rollup{hourly, daily} {
		if err := r.Create(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, pool, `INSERT INTO orders SELECT timestamptz '2026-01-01Z' + nullif(i, 7) * interval '47 minutes', 'p' || i % 40, nullif(i % 9, 5) FROM generate_series(1, 300) i`)
	for _, r := range []matview.Rollup{hourly, daily} {
		if _, err := r.Rebuild(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	const days = `SELECT date_trunc('day', at, 'UTC') AS at, sum(n)::bigint AS n, sum(total) AS total, min(low) AS low, max(high) AS high,
		sum(mean_sum) / nullif(sum(mean_count), 0) AS mean, bit_or(products_sketch) AS sketch FROM hourly GROUP BY 1`
	set, err := matview.New(t.Context(), pool, "levels", matview.Config{Views: []matview.View{{Name: "days", SQL: days}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for what, view := range map[string]string{"a plain view": "(" + days + ")", "a materialized view": "days"} {
		want(t, what, one[int](t, pool, `SELECT count(*) FROM (SELECT at, n, total, low, high, mean, products_sketch FROM daily EXCEPT ALL SELECT * FROM `+view+` v) x`), 0)
	}
	want(t, "days", one[int](t, pool, `SELECT count(*) FROM days`), 11)
	again := by("weekly", "week")
	again.From = "hourly"
	again.Measures = []matview.Measure{{Name: "n", Aggregate: matview.AggregateSum, Expr: "n"}}
	if err := again.Create(t.Context(), pool); !errors.Is(err, matview.ErrConfig) {
		t.Errorf("a roll-up of a roll-up: %v, want ErrConfig", err)
	}
}
