package orders_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// Each dashboard exists as a view and as a roll-up. After some promotions, with orders that come
// twice, the two agree to the cent and to the customer.
func TestDashboardsAgree(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	app, err := orders.Open(t.Context(), servertest.Redis(t), pool, servertest.Prefix(t))
	if err != nil {
		t.Fatal(err)
	}
	gen, err := orders.NewGenerator(orders.Config{Seed: 7, Orders: 3000, Duplicates: 0.05})
	if err != nil {
		t.Fatal(err)
	}
	var rows []orders.Row
	catalog := orders.SampleCatalog()
	for p := range gen.All() {
		o, err := orders.Decode(p)
		if err != nil {
			continue
		}
		if row, err := orders.Enrich(o, catalog); err == nil {
			rows = append(rows, row)
		}
	}
	for i := 0; len(rows) > 0; i++ {
		n := min(len(rows), 400)
		l := staging.Load[orders.Row]{Batch: staging.Batch{ID: staging.NewBatchID(), Records: n}, Rows: rows[:n]}
		if _, err := app.Table.Stage(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		rows = rows[n:]
		if i%3 == 0 || len(rows) == 0 {
			if _, err := app.Table.Promote(t.Context(), staging.PromoteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := app.RefreshViews(t.Context()); err != nil {
		t.Fatal(err)
	}
	columns := map[string]string{
		"sales_hourly":              "hour, category, orders, units, revenue_usd, round(average_usd, 2), customers",
		"product_performance_daily": "day, product_id, product_name, orders, units, revenue_usd",
		"shipping_zone_stats":       "shipping_zone, country, orders, revenue_usd, round(average_usd, 2), customers",
	}
	for i, v := range orders.Views() {
		rollup := app.Rollups[i].Table
		if rollup != v.Name+"_rollup" {
			t.Errorf("roll-up %d is %s, want that of %s", i, rollup, v.Name)
		}
		view := pgx.Identifier{v.Name}.Sanitize()
		if n := one[int](t, pool, "SELECT count(*) FROM "+view); n < 7 {
			t.Errorf("%s has %d rows, want 7 or more", v.Name, n)
		}
		cols := columns[v.Name]
		differ := "SELECT count(*) FROM ((SELECT " + cols + " FROM " + view + " EXCEPT ALL SELECT " + cols + " FROM " + rollup + ")" +
			" UNION ALL (SELECT " + cols + " FROM " + rollup + " EXCEPT ALL SELECT " + cols + " FROM " + view + ")) d"
		if n := one[int](t, pool, differ); n != 0 {
			t.Errorf("%s and its roll-up differ in %d rows", v.Name, n)
		}
		if differences, err := app.Rollups[i].Check(t.Context(), pool, 3); err != nil || len(differences) > 0 {
			t.Errorf("%s: %v, %v", rollup, differences, err)
		}
	}
}
