package lookup_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/headrace/headrace/lookup"
)

// Rates from Postgres, through Redis, into this process. A batch takes the snapshot once.
func ExampleTable() {
	redis, postgres, name, cleanup := connect()
	defer cleanup()
	ctx := context.Background()

	rates, err := lookup.New(ctx, redis, name, lookup.Config[string, float64]{
		Load: lookup.FromQuery[string, float64](postgres,
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

// Any function that returns a map is a source.
func ExampleNew() {
	redis, _, name, cleanup := connect()
	defer cleanup()
	ctx := context.Background()

	table, err := lookup.New(ctx, redis, name, lookup.Config[string, int]{
		Load: lookup.FromMap(func(context.Context) (map[string]int, error) { return map[string]int{"a": 1, "b": 2}, nil }),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := table.Refresh(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(table.Name() == name)
	found, err := table.GetMany(ctx, []string{"b", "c"})
	fmt.Println(found.Values, found.Missing, err)
	// Output:
	// true
	// [2 0] [1] <nil>
}

// An empty source does not empty the table: it may have been truncated by mistake.
func ExampleTable_Refresh_empty() {
	redis, _, _, cleanup := connect()
	defer cleanup()
	ctx := context.Background()

	source := map[string]int{"a": 1}
	table, err := lookup.New(ctx, redis, "example-stock", lookup.Config[string, int]{
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
	fmt.Println(errors.Is(err, lookup.ErrEmpty), err)
	snapshot, err := table.Snapshot()
	fmt.Println(snapshot.Len(), err)
	// Output:
	// <nil>
	// true lookup: table "example-stock": the source is empty
	// 1 <nil>
}

// A program that starts takes the version that is there. Only the first one reads the source.
func ExampleTable_Ensure() {
	redis, _, name, cleanup := connect()
	defer cleanup()
	ctx := context.Background()

	for _, program := range []string{"first", "second"} {
		stock, err := lookup.New(ctx, redis, name, lookup.Config[string, int]{
			Load: lookup.FromMap(func(context.Context) (map[string]int, error) {
				fmt.Println("the", program, "program reads the source")
				return map[string]int{"chair": 4}, nil
			}),
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(stock.Ensure(ctx))
		found, err := stock.GetMany(ctx, []string{"chair"})
		fmt.Println(found.Values, err)
	}
	// Output:
	// the first program reads the source
	// <nil>
	// [4] <nil>
	// <nil>
	// [4] <nil>
}

// Two processes: one refreshes, the other reads. Sync fetches the version once; Run does it
// whenever a new one appears.
func ExampleTable_Sync() {
	redis, _, name, cleanup := connect()
	defer cleanup()
	ctx := context.Background()

	writer, err := lookup.New(ctx, redis, name, lookup.Config[string, int]{
		Load: lookup.FromMap(func(context.Context) (map[string]int, error) { return map[string]int{"a": 1, "b": 2}, nil }),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	refreshed, err := writer.Refresh(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	reader, err := lookup.New(ctx, redis, name, lookup.Config[string, int]{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = reader.Snapshot()
	fmt.Println(errors.Is(err, lookup.ErrNotLoaded))
	fmt.Println(reader.Sync(ctx))
	snapshot, err := reader.Snapshot()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(snapshot.Version() == refreshed.Version)
	var keys []string
	for k := range snapshot.All() {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	fmt.Println(keys)
	// Output:
	// true
	// <nil>
	// true
	// [a b]
}

// A service runs the table in the background. Here it also refreshes it, every ten minutes.
func ExampleTable_Run() {
	redis, _, name, cleanup := connect()
	defer cleanup()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	loaded := make(chan struct{})
	table, err := lookup.New(ctx, redis, name, lookup.Config[string, int]{
		Load: lookup.FromMap(func(context.Context) (map[string]int, error) {
			defer close(loaded)
			return map[string]int{"a": 1}, nil
		}),
		RefreshInterval: 10 * time.Minute,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan error)
	go func() { done <- table.Run(ctx) }()
	<-loaded
	cancel()
	fmt.Println(<-done)
	// Output:
	// <nil>
}

// How old the table is, and whether this process has its current version.
func ExampleTable_Stats() {
	redis, _, name, cleanup := connect()
	defer cleanup()
	ctx := context.Background()

	table, err := lookup.New(ctx, redis, name, lookup.Config[string, int]{
		Load: lookup.FromMap(func(context.Context) (map[string]int, error) { return map[string]int{"a": 1}, nil }),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := table.Refresh(ctx); err != nil {
		fmt.Println(err)
		return
	}
	s, err := table.Stats(ctx)
	fmt.Println(s.Entries, s.Age < time.Hour, s.Snapshot == s.Version, err)
	// Output:
	// 1 true true <nil>
}

// A table that is too large for every process: Redis is asked for a batch of keys, and the source
// for what Redis lacks.
func ExampleRemote() {
	redis, postgres, name, cleanup := connect()
	defer cleanup()
	ctx := context.Background()

	customers, err := lookup.NewRemote(ctx, redis, name, lookup.RemoteConfig[int64, string]{
		Fetch: lookup.FetchQuery[int64, string](postgres,
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

// A program that changes an entry writes it to Redis too, or drops it there: the next look-up asks
// the source.
func ExampleRemote_Put() {
	redis, _, name, cleanup := connect()
	defer cleanup()
	ctx := context.Background()

	prices, err := lookup.NewRemote(ctx, redis, name, lookup.RemoteConfig[string, int]{
		Fetch: func(context.Context, []string) (map[string]int, error) { return map[string]int{"mug": 9}, nil },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(prices.Name() == name)
	fmt.Println(prices.Put(ctx, map[string]int{"mug": 12}))
	found, err := prices.GetMany(ctx, []string{"mug"})
	fmt.Println(found.Values, err)
	fmt.Println(prices.Forget(ctx, "cup"))
	// Output:
	// true
	// <nil>
	// [12] <nil>
	// <nil>
}
