package staging_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/staging"
)

// rejected returns a table that has promoted p1 and rejected p2 and p3, and the id of their batch.
func rejected(ctx context.Context) (table *staging.Table[payment], batch string, drop func()) {
	pool, drop := exampleDatabase(paymentsTable)
	table, err := staging.New(ctx, pool, "payments", paymentsConfig)
	if err != nil {
		panic(err)
	}
	load := staging.Load[payment]{
		Batch: staging.Batch{ID: staging.NewBatchID(), Records: 3},
		Rows:  []payment{{"p1", "10"}, {"p2", "-3"}, {"p3", "many"}},
	}
	if _, err := table.Stage(ctx, load); err != nil {
		panic(err)
	}
	if _, err := table.Promote(ctx, staging.PromoteOptions{}); err != nil {
		panic(err)
	}
	return table, load.Batch.ID, drop
}

// Rejects are listed page by page, oldest first.
func ExampleTable_Rejects() {
	ctx := context.Background()
	table, batch, drop := rejected(ctx)
	defer drop()

	filter := staging.RejectFilter{Batch: batch, Limit: 1}
	for {
		page, err := table.Rejects(ctx, filter)
		if err != nil {
			fmt.Println(err)
		}
		if len(page) == 0 {
			return
		}
		for _, r := range page {
			fmt.Println(r.Key, r.Code, r.Source)
			filter.After = r.ID
		}
	}
	// Output:
	// p3 not_a_number stage
	// p2 negative rule
}

// The records of a batch of which no row was promoted.
func ExampleTable_RejectsByBatch() {
	ctx := context.Background()
	table, batch, drop := rejected(ctx)
	defer drop()

	rejects, err := table.RejectsByBatch(ctx, []string{batch})
	if err != nil {
		fmt.Println(err)
	}
	for _, r := range rejects[batch] {
		fmt.Printf("record %d: %s: %s: %s\n", r.Pos, r.Key, r.Reason, r.Payload)
	}
	// Output:
	// record 1: p2: an amount below zero: {"id":"p2","amount":-3.00}
	// record 2: p3: column "amount": "many" is not a number: {"id":"p3","amount":"many"}
}

// RejectedKeys returns the same records without their payloads.
func ExampleTable_RejectedKeys() {
	ctx := context.Background()
	table, batch, drop := rejected(ctx)
	defer drop()

	rejects, err := table.RejectedKeys(ctx, []string{batch})
	if err != nil {
		fmt.Println(err)
	}
	for _, r := range rejects[batch] {
		fmt.Println(r.Pos, r.Key, len(r.Payload))
	}
	// Output:
	// 1 p2 0
	// 2 p3 0
}

// A reject that is given up, or that was pushed into the queue again, is resolved.
func ExampleTable_Resolve() {
	ctx := context.Background()
	table, _, drop := rejected(ctx)
	defer drop()

	open, err := table.Rejects(ctx, staging.RejectFilter{Key: "p2"})
	if err != nil {
		fmt.Println(err)
	}
	for _, r := range open {
		fmt.Println(table.Resolve(ctx, r.ID))
		fmt.Println(table.Resolve(ctx, r.ID)) // it is resolved already
	}
	open, err = table.Rejects(ctx, staging.RejectFilter{})
	fmt.Println(len(open), "left", err)
	// Output:
	// 1 <nil>
	// 0 <nil>
	// 1 left <nil>
}

// Replay writes a corrected row and resolves its reject.
func ExampleTable_Replay() {
	ctx := context.Background()
	table, _, drop := rejected(ctx)
	defer drop()

	rejects, err := table.Rejects(ctx, staging.RejectFilter{Code: "negative"})
	if err != nil {
		fmt.Println(err)
	}
	fix := func(amount string) {
		p, err := table.Replay(ctx, []staging.Correction[payment]{{Reject: rejects[0].ID, Rows: []payment{{"p2", amount}}}})
		fmt.Println(amount, "rows:", p.Rows, "breaks a rule:", errors.Is(err, staging.ErrLoad))
	}
	fix("-4")
	fix("3")
	fix("3") // it is resolved already
	books, err := table.BooksSince(ctx, time.Now().Add(-time.Hour))
	fmt.Println(books.Rows, "rows, balanced:", books.Balanced() == nil, err)
	// Output:
	// -4 rows: 0 breaks a rule: true
	// 3 rows: 1 breaks a rule: false
	// 3 rows: 0 breaks a rule: false
	// 2 rows, balanced: true <nil>
}

// Prune forgets what is old. Afterwards a batch that was sealed before is not promoted: the ledger
// no longer holds whether it was.
func ExampleTable_Prune() {
	ctx := context.Background()
	table, _, drop := rejected(ctx)
	defer drop()

	week := 7 * 24 * time.Hour
	pruned, err := table.Prune(ctx, time.Now().Add(-week))
	fmt.Println(pruned, "rows of the ledger", err)
	_, err = table.Stage(ctx, staging.Load[payment]{
		Batch: staging.Batch{ID: staging.NewBatchID(), Records: 1, Sealed: time.Now().Add(-2 * week)},
		Rows:  []payment{{"p9", "1"}},
	})
	fmt.Println(errors.Is(err, staging.ErrTooOld))
	// Output:
	// 0 rows of the ledger <nil>
	// true
}

// Books sums what became of all records. Balanced returns an error that names the line that does
// not add up.
func ExampleTable_Books() {
	ctx := context.Background()
	table, _, drop := rejected(ctx)
	defer drop()

	books, err := table.Books(ctx)
	fmt.Println(books.Records, "records:", books.Kept, "kept,", books.Rejected, "rejected", err)
	fmt.Println(books.Staged, "staged:", books.Rows, "rows,", books.RejectedByRule, "rejected by a rule")
	fmt.Println(books.Balanced())
	// Output:
	// 3 records: 2 kept, 1 rejected <nil>
	// 2 staged: 1 rows, 1 rejected by a rule
	// <nil>
}

// Balanced needs no table: it adds up what is in the Books.
func ExampleBooks_Balanced() {
	books := staging.Books{Records: 10, Kept: 7, Filtered: 2, Staged: 7, Rows: 7}
	fmt.Println(books.Balanced())
	// Output:
	// staging: the books do not balance: 10 records, but kept + duplicates + filtered + rejected = 9 (off by +1)
}

// Stats counts what waits for promotion.
func ExampleTable_Stats() {
	ctx := context.Background()
	table, _, drop := rejected(ctx)
	defer drop()

	load := staging.Load[payment]{Batch: staging.Batch{ID: staging.NewBatchID(), Records: 2}, Rows: []payment{{"p4", "4"}, {"p5", "5"}}}
	if _, err := table.Stage(ctx, load); err != nil {
		fmt.Println(err)
	}
	s, err := table.Stats(ctx)
	fmt.Println(s.Batches, s.Records, s.Rows, time.Since(s.Oldest) < time.Hour, err)
	// Output:
	// 1 2 2 true <nil>
}

// Stuck returns why promotions fail. Nothing is lost meanwhile: the batch stays staged.
func ExampleStats_Stuck() {
	ctx := context.Background()
	pool, drop := exampleDatabase(paymentsTable)
	defer drop()

	table, err := staging.New(ctx, pool, "payments", paymentsConfig)
	if err != nil {
		fmt.Println(err)
		return
	}
	load := staging.Load[payment]{Batch: staging.Batch{ID: staging.NewBatchID(), Records: 1}, Rows: []payment{{"p1", "2"}}}
	if _, err := table.Stage(ctx, load); err != nil {
		fmt.Println(err)
	}
	for _, migration := range []string{
		`ALTER TABLE payments ALTER COLUMN amount TYPE text`,
		`ALTER TABLE payments ALTER COLUMN amount TYPE numeric(12,2) USING amount::numeric`, // back
	} {
		if _, err := pool.Exec(ctx, migration); err != nil {
			fmt.Println(err)
		}
		_, failure := table.Promote(ctx, staging.PromoteOptions{})
		s, err := table.Stats(ctx)
		fmt.Println("drift:", errors.Is(failure, staging.ErrDrift), "stuck:", errors.Is(s.Stuck(), staging.ErrStuck), "staged:", s.Batches, err)
	}
	// Output:
	// drift: true stuck: true staged: 1 <nil>
	// drift: false stuck: false staged: 0 <nil>
}

// The open rejects of each code, however many there are. A correction of the program's code ends
// some of them.
func ExampleTable_CodeCounts() {
	ctx := context.Background()
	table, _, drop := rejected(ctx)
	defer drop()

	rejects, err := table.Rejects(ctx, staging.RejectFilter{Code: "negative"})
	if err != nil {
		fmt.Println(err)
	}
	for _, r := range rejects {
		if _, err := table.Resolve(ctx, r.ID); err != nil {
			fmt.Println(err)
		}
	}
	counts, err := table.CodeCounts(ctx)
	if err != nil {
		fmt.Println(err)
	}
	for _, c := range counts {
		fmt.Println(c.Code, "open:", c.Open, "resolved:", c.Resolved)
	}
	// Output:
	// negative open: 0 resolved: 1
	// not_a_number open: 1 resolved: 0
}
