package matview_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/staging"
)

// dashboard is two views, of which one reads the other.
var dashboard = []matview.View{
	{
		Name: "best_category", UniqueIndex: []string{"category"},
		SQL: `SELECT category, revenue FROM sales_by_category ORDER BY revenue DESC LIMIT 1`,
	},
	{
		Name: "sales_by_category", UniqueIndex: []string{"category"},
		SQL: `SELECT category, count(*) AS orders, sum(total) AS revenue FROM orders GROUP BY category`,
	},
}

const ordersTable = `CREATE TABLE orders (id bigint, category text, total numeric(12,2))`

// Views are refreshed in the order in which they read each other, and only after something was
// promoted.
func ExampleRefresher_Refresh() {
	ctx := context.Background()
	pool, drop := database(ordersTable, `INSERT INTO orders VALUES (1, 'Books', 10), (2, 'Games', 25)`)
	defer drop()

	r, err := matview.New(ctx, pool, "dashboard", matview.Config{
		Views: dashboard,
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

// New creates what is missing, and finds a view that differs from its definition.
func ExampleNew() {
	ctx := context.Background()
	pool, drop := database(ordersTable)
	defer drop()

	if _, err := matview.New(ctx, pool, "dashboard", matview.Config{Views: dashboard, Populate: true}); err != nil {
		fmt.Println(err)
	}
	_, err := matview.New(ctx, pool, "dashboard", matview.Config{Views: []matview.View{
		{Name: "sales_by_category", SQL: `SELECT category, sum(total) AS revenue FROM orders GROUP BY category`},
	}})
	fmt.Println(fold(err))
	// Output:
	// matview: materialized view sales_by_category differs from its definition: column
	// "orders" (bigint) is not in the definition; DROP MATERIALIZED VIEW
	// "sales_by_category" (CASCADE also drops what is built on it) and create it again,
	// or change the definition back
}

// A program that operates pipelines refreshes a set of views of which it knows only the name.
func ExampleOpen() {
	ctx := context.Background()
	pool, drop := database(ordersTable, `INSERT INTO orders VALUES (1, 'Books', 10)`)
	defer drop()
	if _, err := matview.New(ctx, pool, "dashboard", matview.Config{Views: dashboard}); err != nil {
		fmt.Println(err)
		return
	}

	views, err := matview.Open(ctx, pool, "dashboard", matview.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	report, err := views.Refresh(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, v := range report.Views {
		fmt.Println(v.View, v.Action)
	}
	// Output:
	// sales_by_category refreshed
	// best_category refreshed
}

// A migration tool applies the schema; the program itself creates nothing.
func ExampleSQL() {
	ctx := context.Background()
	pool, drop := database(ordersTable)
	defer drop()

	cfg := matview.Config{NoCreate: true, Views: []matview.View{{Name: "orders_total", SQL: `SELECT sum(total) AS total FROM orders`}}}
	_, err := matview.New(ctx, pool, "dashboard", cfg)
	fmt.Println(fold(err))
	schema, err := matview.SQL("dashboard", cfg)
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(strings.SplitN(schema, "\n", 2)[0])
	if _, err := pool.Exec(ctx, schema); err != nil {
		fmt.Println(err)
	}
	_, err = matview.New(ctx, pool, "dashboard", cfg)
	fmt.Println(fold(err))
	// Output:
	// matview: object does not exist: table "dashboard_views", materialized view
	// "orders_total" (Config.NoCreate is set: apply the schema that SQL returns)
	// -- headrace matview schema 1: the set of views dashboard
	// <nil>
}

func ExampleRefresher_Freshness() {
	ctx := context.Background()
	pool, drop := database(ordersTable)
	defer drop()

	r, err := matview.New(ctx, pool, "dashboard", matview.Config{Views: dashboard})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := r.Refresh(ctx, "sales_by_category"); err != nil {
		fmt.Println(err)
	}
	views, err := r.Freshness(ctx)
	for _, v := range views {
		fmt.Println(v.View, "populated:", v.Populated, "refreshes:", v.Refreshes)
	}
	fmt.Println(err)
	// Output:
	// sales_by_category populated: true refreshes: 1
	// best_category populated: false refreshes: 0
	// <nil>
}

// sales is a roll-up of the orders.
var sales = matview.Rollup{
	Table:   "sales",
	From:    "orders",
	GroupBy: []matview.Column{{Name: "category", Type: "text"}},
	Measures: []matview.Measure{
		{Name: "orders", Aggregate: matview.AggregateCount},
		{Name: "revenue", Expr: "total", Aggregate: matview.AggregateSum},
	},
}

// The merges of a roll-up go into the configuration of the table. Then each promotion adds its rows
// to the roll-up, in the same transaction.
func ExampleRollup_Merges() {
	ctx := context.Background()
	pool, drop := database(ordersTable)
	defer drop()

	if err := sales.Create(ctx, pool); err != nil {
		fmt.Println(err)
	}
	merges, err := sales.Merges()
	if err != nil {
		fmt.Println(err)
	}
	type order struct {
		ID       int64  `db:"id"`
		Category string `db:"category,nullzero"`
		Total    string `db:"total"`
	}
	var cfg staging.Config[order]
	for _, m := range merges {
		cfg.Merges = append(cfg.Merges, staging.Merge(m))
	}
	table, err := staging.New(ctx, pool, "orders", cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, orders := range [][]order{{{1, "Books", "10"}, {2, "Games", "25"}}, {{3, "Books", "99"}, {4, "", "1"}}} {
		load := staging.Load[order]{Batch: staging.Batch{ID: staging.NewBatchID(), Records: len(orders)}, Rows: orders}
		if _, err := table.Stage(ctx, load); err != nil {
			fmt.Println(err)
		}
		if _, err := table.Promote(ctx, staging.PromoteOptions{}); err != nil {
			fmt.Println(err)
		}
	}
	rows, err := pool.Query(ctx, `SELECT coalesce(category, 'none'), orders, revenue::text FROM sales ORDER BY 1`)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer rows.Close()
	for rows.Next() {
		v, err := rows.Values()
		fmt.Println(v, err)
	}
	// Output:
	// [Books 2 109.00] <nil>
	// [Games 1 25.00] <nil>
	// [none 1 1.00] <nil>
}

// Two roll-ups that count the same customers share a dictionary, so that a promotion looks up each
// customer once.
func ExampleMerges() {
	customers := matview.Measure{
		Name: "customers", Expr: "customer", Type: "text", Aggregate: matview.AggregateDistinct, Dictionary: "all_customers",
	}
	merges, err := matview.Merges(
		matview.Rollup{
			Table: "by_day", From: "orders",
			GroupBy: []matview.Column{{Name: "day", Type: "date"}}, Measures: []matview.Measure{customers},
		},
		matview.Rollup{
			Table: "by_shop", From: "orders",
			GroupBy: []matview.Column{{Name: "shop", Type: "text"}}, Measures: []matview.Measure{customers},
		},
	)
	if err != nil {
		fmt.Println(err)
	}
	for _, m := range merges {
		fmt.Println(m.Name)
	}
	// Output:
	// all_customers found
	// all_customers numbered
	// all_customers known
	// by_day customers
	// by_day
	// by_shop customers
	// by_shop
}

// A sum that would be rounded is refused: the rounded sums of two promotions do not add up to the
// rounded sum.
func ExampleRollup_Create() {
	ctx := context.Background()
	pool, drop := database(`CREATE TABLE orders (category text, total numeric, weight real)`)
	defer drop()

	rounded := sales
	rounded.Measures = []matview.Measure{{Name: "revenue", Expr: "total", Type: "numeric(12,2)", Aggregate: matview.AggregateSum}}
	fmt.Println(fold(rounded.Create(ctx, pool)))
	float := sales
	float.Measures = []matview.Measure{{Name: "weight", Expr: "weight", Aggregate: matview.AggregateSum}}
	fmt.Println(fold(float.Create(ctx, pool)))
	fmt.Println(sales.Create(ctx, pool))
	// Output:
	// matview: invalid configuration: Rollup.Measures[0].Type (column revenue) is
	// numeric(12,2), must hold every sum of numeric exactly: take numeric and round
	// when you read, or round each row in Expr
	// matview: invalid configuration: Rollup.Measures[0].Expr (column weight) is of
	// type real, must be exact for a sum: write (weight)::numeric
	// <nil>
}

// Verify checks, and creates nothing.
func ExampleRollup_Verify() {
	ctx := context.Background()
	pool, drop := database(ordersTable)
	defer drop()

	fmt.Println(fold(sales.Verify(ctx, pool)))
	schema, err := sales.SQL()
	if err != nil {
		fmt.Println(err)
	}
	if _, err := pool.Exec(ctx, schema); err != nil { // a migration tool does this
		fmt.Println(err)
	}
	fmt.Println(sales.Verify(ctx, pool))
	// Output:
	// matview: object does not exist: roll-up "sales" (Verify creates nothing: apply
	// the schema that Rollup.SQL returns)
	// <nil>
}

func ExampleRollup_SQL() {
	schema, err := sales.SQL()
	if err != nil {
		fmt.Println(err)
	}
	table, rest, _ := strings.Cut(schema[strings.Index(schema, "CREATE"):], " WITH ")
	fmt.Println(table)
	fmt.Println(strings.Count(rest, ";"), "statements, then:", rest[strings.Index(rest, "COMMENT"):])
	// Output:
	// CREATE TABLE "sales" ("category" text, "orders" bigint, "revenue" numeric)
	// 4 statements, then: COMMENT ON TABLE "sales" IS E'headrace roll-up schema 2: {"from":"\\"orders\\"","columns":{"category":"\\"category\\"","orders":"count(*)","revenue":"sum(total)"}}';
}

func ExampleRollup_Validate() {
	r := sales
	r.GroupBy = nil
	fmt.Println(fold(r.Validate()))
	// Output:
	// matview: invalid configuration: Rollup.GroupBy has 0 columns, must have 1 to 32
}

// A change to the table outside of a promotion is not merged. Check finds it.
func ExampleRollup_Check() {
	ctx := context.Background()
	pool, drop := database(ordersTable)
	defer drop()

	if err := sales.Create(ctx, pool); err != nil {
		fmt.Println(err)
	}
	if _, err := pool.Exec(ctx, `INSERT INTO orders VALUES (1, 'Games', 25)`); err != nil {
		fmt.Println(err)
	}
	differences, err := sales.Check(ctx, pool, 10)
	fmt.Println(differences, err)
	// Output:
	// [(Games): have none, want (1, 25.00)] <nil>
}

func ExampleRollup_Rebuild() {
	ctx := context.Background()
	pool, drop := database(ordersTable, `INSERT INTO orders VALUES (1, 'Books', 10), (2, 'Games', 25)`)
	defer drop()

	if err := sales.Create(ctx, pool); err != nil {
		fmt.Println(err)
	}
	changed, err := sales.Rebuild(ctx, pool)
	fmt.Println(changed, err)
	differences, err := sales.Check(ctx, pool, 10)
	fmt.Println(differences, err)
	// Output:
	// 2 <nil>
	// [] <nil>
}

// Sketches of several groups merge: a customer who bought in two categories counts once.
func ExampleSketchCount() {
	ctx := context.Background()
	pool, drop := database(`CREATE TABLE orders (category text, customer bigint)`,
		`INSERT INTO orders SELECT 'Books', generate_series(1, 3) UNION ALL SELECT 'Games', generate_series(2, 5)`)
	defer drop()

	buyers := matview.Rollup{
		Table:    "buyers",
		From:     "orders",
		GroupBy:  []matview.Column{{Name: "category", Type: "text"}},
		Measures: []matview.Measure{{Name: "customers", Expr: "customer", Aggregate: matview.AggregateSketch}},
	}
	if err := buyers.Create(ctx, pool); err != nil {
		fmt.Println(err)
	}
	if _, err := buyers.Rebuild(ctx, pool); err != nil {
		fmt.Println(err)
	}
	var sum, together int
	sql := `SELECT sum(customers)::int, ` + matview.SketchCount("bit_or(customers_sketch)") + ` FROM buyers`
	err := pool.QueryRow(ctx, sql).Scan(&sum, &together)
	fmt.Println(sum, together, err)
	// Output:
	// 7 5 <nil>
}

// Run refreshes the views after each pause in the notices of a promoter.
func ExampleRefresher_Run() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	pool, drop := database(ordersTable)
	defer drop()

	promoted := make(chan bool)
	r, err := matview.New(ctx, pool, "dashboard", matview.Config{
		Views: dashboard, Debounce: time.Millisecond, MaxStaleness: time.Second,
		Changed: func(ctx context.Context) (string, error) {
			promoted <- true
			return "", nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	<-promoted // a refresh at the start
	r.Notify() // a promoter does this after each promotion
	<-promoted
	cancel()
	fmt.Println(<-ended)
	// Output:
	// <nil>
}
