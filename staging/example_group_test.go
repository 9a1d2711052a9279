package staging_test

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/staging"
)

type bookOrder struct {
	ID       string `db:"id"`
	Customer string `db:"customer"`
}

type bookLine struct {
	Order  string `db:"order_id"`
	Title  string `db:"title"`
	Copies int32  `db:"copies"`
}

// bookRecord is what a chain makes of one payload.
type bookRecord struct {
	Order bookOrder
	Lines []bookLine
}

const booksTables = `
	CREATE TABLE book_orders (id text PRIMARY KEY, customer text NOT NULL);
	CREATE TABLE book_lines (order_id text REFERENCES book_orders, title text, copies int CHECK (copies > 0),
		PRIMARY KEY (order_id, title));`

// An order and its lines are one record of the queue and rows of two tables. A line with a bad
// count rejects its order too.
func ExampleGroup() {
	ctx := context.Background()
	pool, drop := exampleDatabase(booksTables)
	defer drop()

	orders, err := staging.New(ctx, pool, "book_orders", staging.Config[bookOrder]{Key: []string{"id"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	lines, err := staging.New(ctx, pool, "book_lines", staging.Config[bookLine]{Key: []string{"order_id", "title"}, ID: "order_id"})
	if err != nil {
		fmt.Println(err)
		return
	}
	table := staging.Group(
		staging.Into(orders, func(r bookRecord) []bookOrder { return []bookOrder{r.Order} }),
		staging.Into(lines, func(r bookRecord) []bookLine { return r.Lines }),
	)

	fmt.Println(table.Validate(), table.Check(ctx)) // at the start of a program: can these tables be one?
	fmt.Println(table.Stage(ctx, staging.Load[bookRecord]{
		Batch: staging.Batch{ID: staging.NewBatchID(), Records: 2},
		Rows: []bookRecord{
			{bookOrder{"o1", "Ada"}, []bookLine{{"o1", "Emma", 1}, {"o1", "Ulysses", 2}}},
			{bookOrder{"o2", "Bob"}, []bookLine{{"o2", "Dracula", 1}, {"o2", "Walden", 0}}},
		},
	}))
	p, err := table.Promote(ctx, staging.PromoteOptions{})
	fmt.Println(p.Records, "records,", p.Rows, "rows,", p.RejectedByRule, "rejected", err)

	rejects, err := table.Rejects(ctx, staging.RejectFilter{})
	if err != nil {
		fmt.Println(err)
	}
	for _, r := range rejects {
		fmt.Println(r.Table, r.Source, r.Code, r.Key)
	}
	books, err := table.Books(ctx)
	fmt.Println(books.Records, "=", books.Kept, "kept;", books.Staged, "=", books.Rows, "+", books.RejectedByRule, books.Balanced() == nil, err)
	each, err := table.BooksByTable(ctx, time.Time{})
	for _, b := range each {
		fmt.Println(b.Table, b.Staged, "=", b.Rows, "+", b.RejectedByRule, err)
	}
	// Output:
	// <nil> <nil>
	// staged <nil>
	// 2 records, 3 rows, 3 rejected <nil>
	// "public"."book_orders" group sqlstate_23514 o2
	// "public"."book_lines" insert sqlstate_23514 o2
	// "public"."book_lines" insert sqlstate_23514 o2
	// 2 = 2 kept; 6 = 3 + 3 true <nil>
	// "public"."book_orders" 2 = 1 + 1 <nil>
	// "public"."book_lines" 4 = 2 + 2 <nil>
}

// What the stages of a chain dropped is in the ledger of the group's first table. A worker of
// package pipeline fills in Load.Stages.
func ExampleTableGroup_StageCounts() {
	ctx := context.Background()
	pool, drop := exampleDatabase(booksTables)
	defer drop()

	orders, err := staging.New(ctx, pool, "book_orders", staging.Config[bookOrder]{Key: []string{"id"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	table := staging.Group(staging.Into(orders, func(r bookRecord) []bookOrder { return []bookOrder{r.Order} }))
	fmt.Println(table.Stage(ctx, staging.Load[bookRecord]{
		Batch:      staging.Batch{ID: staging.NewBatchID(), Records: 6},
		Rows:       []bookRecord{{Order: bookOrder{"o1", "Ada"}}},
		Duplicates: 3,
		Filtered:   2,
		Stages:     []staging.StageDrops{{Stage: "dedup", Duplicates: 3}, {Stage: "wanted", Filtered: 2}},
	}))
	if _, err := table.Promote(ctx, staging.PromoteOptions{}); err != nil {
		fmt.Println(err)
	}

	now, err := table.Clock(ctx) // the clock that stamps the ledger
	if err != nil {
		fmt.Println(err)
	}
	counts, err := table.StageCounts(ctx, now.Add(-time.Minute))
	for _, c := range counts {
		fmt.Println(c.Stage, "entered", c.Entered, "passed", c.Passed(), err)
	}
	ledger, err := staging.OpenLedger(ctx, pool, "book_orders") // without the type of the rows
	if err != nil {
		fmt.Println(err)
		return
	}
	all, err := ledger.StageCounts(ctx, time.Time{})
	fmt.Println(len(all), "stages", err)
	// Output:
	// staged <nil>
	// dedup entered 6 passed 3 <nil>
	// wanted entered 3 passed 1 <nil>
	// 2 stages <nil>
}

func ExampleTableGroup_Advise() {
	ctx := context.Background()
	pool, drop := exampleDatabase(booksTables + "ALTER TABLE book_lines SET (autovacuum_enabled = off)")
	defer drop()

	orders, err := staging.New(ctx, pool, "book_orders", staging.Config[bookOrder]{Key: []string{"id"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	lines, err := staging.New(ctx, pool, "book_lines", staging.Config[bookLine]{Key: []string{"order_id", "title"}, ID: "order_id"})
	if err != nil {
		fmt.Println(err)
		return
	}
	table := staging.Group(
		staging.Into(orders, func(r bookRecord) []bookOrder { return []bookOrder{r.Order} }),
		staging.Into(lines, func(r bookRecord) []bookLine { return r.Lines }),
	)
	advice, err := table.Advise(ctx)
	for _, a := range advice {
		if a.Code == "autovacuum" { // the others depend on the server
			fmt.Println(a.Text)
		}
	}
	fmt.Println(err)
	// Output:
	// autovacuum is off for book_lines: nothing will analyze it or mark its pages as visible
	// <nil>
}
