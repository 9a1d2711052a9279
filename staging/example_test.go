package staging_test

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/staging"
)

type payment struct {
	ID     string `db:"id"`
	Amount string `db:"amount"` // exact: it never becomes a float
}

const paymentsTable = `CREATE TABLE payments (id text PRIMARY KEY, amount numeric(12,2) NOT NULL)`

var paymentsConfig = staging.Config[payment]{
	Key:   []string{"id"},
	Rules: []staging.Rule{{Code: "negative", Reason: "an amount below zero", Where: "amount < 0"}},
}

// A batch is staged, promoted and delivered again. One of its rows breaks a rule.
func ExampleTable() {
	ctx := context.Background()
	pool, drop := exampleDatabase(paymentsTable)
	defer drop()

	table, err := staging.New(ctx, pool, "payments", paymentsConfig)
	if err != nil {
		fmt.Println(err)
		return
	}
	load := staging.Load[payment]{
		Batch: staging.Batch{ID: staging.NewBatchID(), Records: 4},
		Rows:  []payment{{"p1", "10.50"}, {"p2", "-3"}, {"p3", "7"}},
		// Every record of the batch is accounted for, also the one that made no row.
		Rejects: []staging.Reject{{Pos: 3, Code: "no_json", Reason: "unexpected end", Payload: []byte("{")}},
	}
	fmt.Println(table.Stage(ctx, load))
	fmt.Println(table.Stage(ctx, load)) // delivered twice

	p, err := table.Promote(ctx, staging.PromoteOptions{})
	fmt.Println(len(p.Batches), "batch:", p.Rows, "rows,", p.RejectedByRule, "broke a rule,", p.Rejected, "rejected before", err)
	fmt.Println(table.Stage(ctx, load)) // and once more

	rejects, err := table.Rejects(ctx, staging.RejectFilter{})
	if err != nil {
		fmt.Println(err)
	}
	for _, r := range rejects {
		fmt.Println(r.Code, r.Place, string(r.Payload) != "")
	}
	books, err := table.BooksSince(ctx, time.Now().Add(-time.Hour))
	fmt.Println(books.Records, "=", books.Kept, "+", books.Rejected, books.Balanced() == nil, err)
	// Output:
	// staged <nil>
	// already staged <nil>
	// 1 batch: 2 rows, 1 broke a rule, 1 rejected before <nil>
	// already promoted <nil>
	// no_json 3 true
	// negative 1 true
	// 4 = 3 + 1 true <nil>
}

// A row replaces another only if a condition holds. Here an older state does not overwrite a newer
// one.
func ExampleConfig_replaceIf() {
	ctx := context.Background()
	pool, drop := exampleDatabase(`CREATE TABLE parcels (id text PRIMARY KEY, state text, version int)`)
	defer drop()

	type parcel struct {
		ID      string `db:"id"`
		State   string `db:"state"`
		Version int32  `db:"version"`
	}
	table, err := staging.New(ctx, pool, "parcels", staging.Config[parcel]{
		Key: []string{"id"}, Conflict: staging.ConflictReplace,
		ReplaceIf: "EXCLUDED.version > old.version AND old.state <> 'lost'",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range []parcel{{"p1", "packed", 1}, {"p1", "shipped", 2}, {"p1", "packed", 1}} {
		batch := staging.Batch{ID: staging.NewBatchID(), Records: 1}
		if _, err := table.Stage(ctx, staging.Load[parcel]{Batch: batch, Rows: []parcel{p}}); err != nil {
			fmt.Println(err)
		}
		done, err := table.Promote(ctx, staging.PromoteOptions{})
		fmt.Println(p.State, p.Version, "written:", done.Rows, "not:", done.Conflicts, err)
	}
	// Output:
	// packed 1 written: 1 not: 0 <nil>
	// shipped 2 written: 1 not: 0 <nil>
	// packed 1 written: 0 not: 1 <nil>
}

// The bulk path: one query streams a table, a function transforms its rows, COPY writes them back.
func ExampleRewrite_Run() {
	ctx := context.Background()
	pool, drop := exampleDatabase(`CREATE TABLE prices (id bigint PRIMARY KEY, usd numeric)`,
		`INSERT INTO prices SELECT i, i FROM generate_series(1, 25000) i`)
	defer drop()

	type price struct {
		ID  int64  `db:"id"`
		USD string `db:"usd"`
	}
	table, err := staging.New(ctx, pool, "prices", staging.Config[price]{Key: []string{"id"}, Conflict: staging.ConflictReplace})
	if err != nil {
		fmt.Println(err)
		return
	}
	done, err := staging.Rewrite[price, price]{
		Name: "cents", Source: "SELECT id, usd::text FROM prices", Key: "id",
		Transform: func(_ context.Context, in []price) ([]price, error) {
			for i := range in {
				in[i].USD += ".99"
			}
			return in, nil
		},
		Progress: func(p staging.RewriteProgress) { fmt.Println("up to", p.Last) },
	}.Run(ctx, table)
	fmt.Println(done.Read, done.Written, done.Done, err)
	// Output:
	// up to 10000
	// up to 20000
	// up to 25000
	// 25000 25000 true <nil>
}

// A program may log once what would make its promotions faster.
func ExampleTable_Advise() {
	ctx := context.Background()
	pool, drop := exampleDatabase(`CREATE TABLE payments (id bigint PRIMARY KEY, amount bigint) WITH (autovacuum_enabled = off)`)
	defer drop()

	type row struct {
		ID     int64 `db:"id"`
		Amount int64 `db:"amount"`
	}
	table, err := staging.New(ctx, pool, "payments", staging.Config[row]{Key: []string{"id"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	advice, err := table.Advise(ctx)
	for _, a := range advice {
		if a.Code == "autovacuum" { // the others depend on the server
			fmt.Println(a.Text)
		}
	}
	fmt.Println(err)
	// Output:
	// autovacuum is off for payments: nothing will analyze it or mark its pages as visible
	// <nil>
}
