package staging_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/headrace/headrace/staging"
)

type visit struct {
	ID   int64  `db:"id"`
	Page string `db:"page"`
}

const visitsTable = `CREATE TABLE visits (id bigint PRIMARY KEY, page text)`

// A migration tool applies the schema; the program creates nothing.
func ExampleSQL() {
	ctx := context.Background()
	pool, drop := exampleDatabase(visitsTable)
	defer drop()

	cfg := staging.Config[visit]{Key: []string{"id"}, NoCreate: true}
	_, err := staging.New(ctx, pool, "visits", cfg)
	fmt.Println(errors.Is(err, staging.ErrMissing))
	schema, err := staging.SQL(ctx, pool, "visits", cfg)
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(strings.SplitN(schema, "\n", 2)[0])
	if _, err := pool.Exec(ctx, schema); err != nil {
		fmt.Println(err)
	}
	_, err = staging.New(ctx, pool, "visits", cfg)
	fmt.Println(err)
	// Output:
	// true
	// -- headrace staging schema 6: companion tables of "public"."visits"
	// <nil>
}

// What the database role of a program that only reads needs.
func ExampleGrants() {
	ctx := context.Background()
	pool, drop := exampleDatabase(visitsTable)
	defer drop()

	grants, err := staging.Grants(ctx, pool, "visits", staging.Config[visit]{Role: staging.RoleReader}, "dashboard")
	if err != nil {
		fmt.Println(err)
	}
	fmt.Print(grants)
	// Output:
	// -- reader of "public"."visits"
	// GRANT USAGE ON SCHEMA "public" TO "dashboard";
	// GRANT SELECT ON TABLE "public"."visits_control" TO "dashboard";
	// GRANT SELECT ON TABLE "public"."visits_ledger" TO "dashboard";
	// GRANT SELECT ON TABLE "public"."visits_rejects" TO "dashboard";
	// GRANT SELECT ON TABLE "public"."visits_reject_counts" TO "dashboard";
	// GRANT SELECT ON TABLE "public"."visits_epoch" TO "dashboard";
	// GRANT SELECT ON TABLE "public"."visits_registry_a" TO "dashboard";
	// GRANT SELECT ON TABLE "public"."visits_registry_b" TO "dashboard";
}

// The target was altered under a staged batch, and no program of the old shape is left to promote
// it.
func ExampleDiscardStaged() {
	ctx := context.Background()
	pool, drop := exampleDatabase(visitsTable)
	defer drop()

	table, err := staging.New(ctx, pool, "visits", staging.Config[visit]{Key: []string{"id"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	batch := staging.Batch{ID: staging.NewBatchID(), Records: 1}
	if _, err := table.Stage(ctx, staging.Load[visit]{Batch: batch, Rows: []visit{{1, "/"}}}); err != nil {
		fmt.Println(err)
	}
	if _, err := pool.Exec(ctx, `ALTER TABLE visits ALTER COLUMN page TYPE varchar(100)`); err != nil {
		fmt.Println(err)
	}
	_, err = table.Promote(ctx, staging.PromoteOptions{})
	fmt.Println(errors.Is(err, staging.ErrDrift))
	batches, err := staging.DiscardStaged(ctx, pool, "visits")
	fmt.Println(len(batches), "batch", err)
	fates, err := table.Fates(ctx, []string{batch.ID})
	fmt.Println(fates[0], err) // the queue delivers it again
	// Output:
	// true
	// 1 batch <nil>
	// unknown <nil>
}
