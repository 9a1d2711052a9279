package staging_test

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/staging"
)

// A program that operates pipelines knows the name of the target, and not the type of its rows.
func ExampleOpenLedger() {
	ctx := context.Background()
	pool, drop := exampleDatabase(paymentsTable)
	defer drop()
	table, err := staging.New(ctx, pool, "payments", paymentsConfig)
	if err != nil {
		fmt.Println(err)
		return
	}
	load := staging.Load[payment]{
		Batch: staging.Batch{ID: staging.NewBatchID(), Records: 2}, Rows: []payment{{"p1", "many"}, {"p2", "10"}},
		Stages: []staging.StageDrops{{Stage: "decode"}},
	}
	if _, err := table.Stage(ctx, load); err != nil {
		fmt.Println(err)
	}

	ledger, err := staging.OpenLedger(ctx, pool, "payments")
	if err != nil {
		fmt.Println(err)
		return
	}
	waiting, err := ledger.Stats(ctx)
	fmt.Println(ledger.Name(), "has", waiting.Batches, "staged batch", err)
	before, err := ledger.Clock(ctx)
	if err != nil {
		fmt.Println(err)
	}
	if _, err := table.Promote(ctx, staging.PromoteOptions{}); err != nil {
		fmt.Println(err)
	}
	books, err := ledger.Books(ctx)
	fmt.Println(books.Records, "records,", books.Rows, "rows", books.Balanced(), err)
	old, err := ledger.BooksBetween(ctx, time.Time{}, before)
	fmt.Println(old.Records, "records before", err)
	stages, err := ledger.StageCounts(ctx, before)
	fmt.Println(stages, err)
	fates, err := ledger.Fates(ctx, []string{load.Batch.ID, staging.NewBatchID()})
	for _, f := range fates {
		fmt.Println(f, err)
	}

	rejects, err := ledger.Rejects(ctx, staging.RejectFilter{Code: "not_a_number"})
	if err != nil {
		fmt.Println(err)
	}
	for _, r := range rejects {
		push := func(context.Context) error { // or Queue.Push
			fmt.Printf("pushing %s again\n", r.Payload)
			return nil
		}
		done, err := ledger.Resubmit(ctx, r.ID, push)
		fmt.Println("resolved", r.Key, done, err)
		n, err := ledger.Resolve(ctx, r.ID)
		fmt.Println("still open:", n, err)
	}
	counts, err := ledger.CodeCounts(ctx)
	fmt.Println(counts, err)
	pruned, err := ledger.Prune(ctx, time.Now().AddDate(0, 0, -30))
	fmt.Println(pruned, "pruned", err)
	// Output:
	// "public"."payments" has 1 staged batch <nil>
	// 2 records, 1 rows <nil> <nil>
	// 0 records before <nil>
	// [{decode 2 0 0 0}] <nil>
	// promoted <nil>
	// unknown <nil>
	// pushing {"id":"p1","amount":"many"} again
	// resolved p1 true <nil>
	// still open: 0 <nil>
	// [{not_a_number 0 1}] <nil>
	// 0 pruned <nil>
}
