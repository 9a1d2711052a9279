package staging_test

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/staging"
)

// What became of one payment.
func ExampleTable_FindKey() {
	ctx := context.Background()
	table, _, drop := rejected(ctx)
	defer drop()

	for _, key := range []string{"p1", "p2"} {
		found, err := table.FindKey(ctx, key)
		if err != nil {
			fmt.Println(err)
		}
		for _, row := range found.Rows {
			fmt.Println(row.JSON)
		}
		for _, r := range found.Rejects {
			fmt.Println(r.Key, r.Code, r.Reason, r.Resolved.IsZero())
		}
	}
	// Output:
	// {"id":"p1","amount":10.00}
	// p2 negative an amount below zero true
}

// Where a batch is.
func ExampleTable_FindBatches() {
	ctx := context.Background()
	table, batch, drop := rejected(ctx)
	defer drop()

	found, err := table.FindBatches(ctx, batch)
	if err != nil {
		fmt.Println(err)
	}
	for _, b := range found.Batches {
		fmt.Println(b.Fate, b.Records, "records,", b.Rejected, "rejected before staging", b.Holds(batch, 2))
	}
	// Output: promoted 3 records, 1 rejected before staging true
}

// The batches of the last hour.
func ExampleTable_FindSealed() {
	ctx := context.Background()
	table, batch, drop := rejected(ctx)
	defer drop()

	found, err := table.FindSealed(ctx, time.Now().Add(-time.Hour), time.Now().Add(time.Minute), 100)
	fmt.Println(len(found.IDs), found.IDs[0] == batch, found.More, found.Floor.IsZero(), err)
	// Output: 1 true false true <nil>
}

// A finder needs the name of the target only.
func ExampleNewFinder() {
	ctx := context.Background()
	pool, drop := exampleDatabase(paymentsTable)
	defer drop()
	if _, err := staging.New(ctx, pool, "payments", paymentsConfig); err != nil {
		fmt.Println(err)
	}
	if _, err := pool.Exec(ctx, "INSERT INTO payments VALUES ('p9', 3)"); err != nil {
		fmt.Println(err)
	}

	finder, err := staging.NewFinder(ctx, pool, "payments", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	found, err := finder.FindKey(ctx, "p9")
	fmt.Println(finder.Name(), found.Rows[0].JSON, err)
	// Output: "public"."payments" {"id":"p9","amount":3.00} <nil>
}
