package orders

import (
	"strings"

	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/testdata"
)

// The three dashboards exist both ways: as roll-ups, which each promotion brings up to date and
// which the programs show, and as materialized views, which are refreshed in the pauses of the
// load. The two agree to the cent and to the customer.

// Rollups returns the dashboards as roll-ups. Each has the columns of the view that it is named
// after; its averages are not rounded.
func Rollups() []matview.Rollup {
	orders := matview.Measure{Name: "orders", Aggregate: matview.AggregateCount}
	units := matview.Measure{Name: "units", Expr: "quantity", Type: "bigint", Aggregate: matview.AggregateSum}
	revenue := matview.Measure{Name: "revenue_usd", Expr: "total_usd", Type: "numeric", Aggregate: matview.AggregateSum}
	average := matview.Measure{Name: "average_usd", Expr: "total_usd", Aggregate: matview.AggregateAverage}
	customers := matview.Measure{Name: "customers", Expr: "customer_id", Type: "text", Aggregate: matview.AggregateDistinct, Dictionary: "orders_customers"}
	return []matview.Rollup{
		{
			Table: "sales_hourly_rollup", From: Table,
			GroupBy: []matview.Column{
				{Name: "hour", Expr: "date_trunc('hour', ordered_at, 'UTC')", Type: "timestamptz"},
				{Name: "category", Type: "text"},
			},
			Measures: []matview.Measure{orders, units, revenue, average, customers},
		},
		{
			Table: "product_performance_daily_rollup", From: Table,
			GroupBy: []matview.Column{
				{Name: "day", Expr: "(ordered_at AT TIME ZONE 'UTC')::date", Type: "date"},
				{Name: "product_id", Type: "text"},
			},
			Measures: []matview.Measure{
				{Name: "product_name", Expr: "product_name", Type: "text", Aggregate: matview.AggregateMax},
				orders, units, revenue,
			},
		},
		{
			Table: "shipping_zone_stats_rollup", From: Table,
			GroupBy: []matview.Column{
				{Name: "shipping_zone", Type: "text"},
				{Name: "country", Type: "text"},
			},
			Measures: []matview.Measure{orders, revenue, average, customers},
		},
	}
}

// A View is a dashboard view over the orders table.
type View struct {
	Name   string
	SQL    string   // its query
	Unique []string // the columns that tell its rows apart
}

// Views returns the three dashboard views. Their queries are in testdata/views.
func Views() []View {
	views := []View{
		{Name: "sales_hourly", Unique: []string{"hour", "category"}},
		{Name: "product_performance_daily", Unique: []string{"day", "product_id"}},
		{Name: "shipping_zone_stats", Unique: []string{"shipping_zone", "country"}},
	}
	for i, v := range views {
		sql, err := testdata.Views.ReadFile("views/" + v.Name + ".sql")
		if err != nil {
			panic(err) // the files are part of the program
		}
		views[i].SQL = strings.TrimSpace(string(sql))
	}
	return views
}
