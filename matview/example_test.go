package matview_test

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
)

// A dashboard of two views, one built on the other, refreshed when something was promoted.
func ExampleRefresher() {
	ctx := context.Background()
	pool, stop := servertest.ExamplePool(
		`CREATE TABLE orders (id bigint, category text, total numeric)`,
		`INSERT INTO orders VALUES (1, 'Books', 10), (2, 'Games', 25)`)
	defer stop()

	r, err := matview.NewRefresher(ctx, pool, matview.Config{
		Views: []matview.View{
			{
				Name: "sales_by_category", UniqueIndex: []string{"category"},
				SQL: `SELECT category, count(*) AS orders, sum(total) AS revenue FROM orders GROUP BY category`,
			},
			{
				Name: "best_category", UniqueIndex: []string{"category"}, DependsOn: []string{"sales_by_category"},
				SQL: `SELECT category, revenue FROM sales_by_category ORDER BY revenue DESC LIMIT 1`,
			},
		},
		Changed: func(ctx context.Context) (token string, err error) {
			err = pool.QueryRow(ctx, `SELECT count(*) || '/' || coalesce(max(id), 0) FROM orders`).Scan(&token)
			return token, err
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	show := func() {
		report, err := r.Refresh(ctx)
		if err != nil {
			fmt.Println(err)
		}
		for _, v := range report.Views {
			fmt.Println(v.View, v.Action, "readers go on:", v.Concurrent)
		}
	}
	show() // fills them for the first time
	show() // nothing was promoted
	if _, err := pool.Exec(ctx, `INSERT INTO orders VALUES (3, 'Books', 99)`); err != nil {
		fmt.Println(err)
	}
	show()
	// Output:
	// sales_by_category refreshed readers go on: false
	// best_category refreshed readers go on: false
	// sales_by_category unchanged readers go on: false
	// best_category unchanged readers go on: false
	// sales_by_category refreshed readers go on: true
	// best_category refreshed readers go on: true
}

// A roll-up that grows with each promotion, in the promotion's own statement.
func ExampleRollup() {
	ctx := context.Background()
	pool, stop := servertest.ExamplePool(`CREATE TABLE orders (id bigint, category text, total numeric)`)
	defer stop()

	sales := matview.Rollup{
		Table:   "sales",
		GroupBy: []matview.Column{{Name: "category", Type: "text"}},
		Measures: []matview.Measure{
			{Name: "orders", Aggregate: matview.AggregateCount},
			{Name: "revenue", Expr: "total", Aggregate: matview.AggregateSum},
		},
	}
	if err := sales.Create(ctx, pool); err != nil {
		fmt.Println(err)
		return
	}
	name, merge, err := sales.Merge() // staging.Config.Merge takes the two
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, values := range []string{`(1, 'Books', 10), (2, 'Games', 25)`, `(3, 'Books', 99), (4, NULL, 1)`} {
		promotion := `WITH promoted AS (INSERT INTO orders VALUES ` + values + ` RETURNING *), ` + name + ` AS (` + merge + `) SELECT`
		if _, err := pool.Exec(ctx, promotion); err != nil {
			fmt.Println(err)
		}
	}

	// Somebody meddles with it.
	if _, err := pool.Exec(ctx, `UPDATE sales SET revenue = 1 WHERE category = 'Games'`); err != nil {
		fmt.Println(err)
	}
	differences, err := sales.Check(ctx, pool, "orders", 10)
	fmt.Println(differences, err)
	changed, err := sales.Rebuild(ctx, pool, "orders")
	fmt.Println(changed, err)
	// Output:
	// [(Games): have (1, 1), want (1, 25)] <nil>
	// 1 <nil>
}
