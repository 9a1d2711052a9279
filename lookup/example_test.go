package lookup_test

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
)

// Rates from Postgres, through Redis, into this process. A batch takes the snapshot once.
func ExampleTable() {
	tb, cleanup := servertest.Example("lookup-table")
	defer cleanup()
	ctx := context.Background()

	rates, err := lookup.New(servertest.Redis(tb), servertest.Prefix(tb), lookup.Config[string, float64]{
		Load: lookup.FromQuery[string, float64](servertest.Postgres(tb),
			`SELECT code, per_usd FROM (VALUES ('EUR', 0.92::float8), ('JPY', 149.5)) AS rates (code, per_usd)`),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	refreshed, err := rates.Refresh(ctx)
	fmt.Println(refreshed.Entries, "entries,", err)

	snapshot, err := rates.Snapshot()
	if err != nil {
		fmt.Println(err)
		return
	}
	yen, ok := snapshot.Get("JPY")
	fmt.Println(yen, ok)
	found := snapshot.GetMany([]string{"EUR", "CHF", "JPY"})
	fmt.Println(found.Values, "missing:", found.Missing)
	// Output:
	// 2 entries, <nil>
	// 149.5 true
	// [0.92 0 149.5] missing: [1]
}

// An empty source does not empty the table: somebody may have truncated it by mistake.
func ExampleTable_Refresh_empty() {
	tb, cleanup := servertest.Example("lookup-empty")
	defer cleanup()
	ctx := context.Background()

	source := map[string]int{"a": 1}
	table, err := lookup.New(servertest.Redis(tb), servertest.Prefix(tb), lookup.Config[string, int]{
		Load: lookup.FromMap(func(context.Context) (map[string]int, error) { return source, nil }),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = table.Refresh(ctx)
	fmt.Println(err)
	source = nil
	_, err = table.Refresh(ctx)
	fmt.Println(err)
	snapshot, err := table.Snapshot()
	fmt.Println(snapshot.Len(), err)
	// Output:
	// <nil>
	// lookup: the source is empty
	// 1 <nil>
}

// A table too large for every process: Redis is asked for a batch of keys, and the source for what Redis lacks.
func ExampleRemote() {
	tb, cleanup := servertest.Example("lookup-remote")
	defer cleanup()
	ctx := context.Background()

	customers, err := lookup.NewRemote(servertest.Redis(tb), servertest.Prefix(tb), lookup.RemoteConfig[int64, string]{
		Fetch: lookup.FetchQuery[int64, string](servertest.Postgres(tb),
			`SELECT id, 'customer ' || id FROM generate_series(1::int8, 1000000) AS id WHERE id = ANY($1)`),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	found, err := customers.GetMany(ctx, []int64{7, 1_000_001, 42})
	fmt.Printf("%q missing: %v %v\n", found.Values, found.Missing, err)
	// Output:
	// ["customer 7" "" "customer 42"] missing: [1] <nil>
}
