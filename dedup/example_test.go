package dedup_test

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// A batch is delivered twice, as after a crash: its own claims do not make its records duplicates. Another batch
// with one of the ids meets a duplicate.
func ExampleDeduplicator_Claim() {
	tb, cleanup := servertest.Example("dedup-claim")
	defer cleanup()
	ctx := context.Background()

	window, err := dedup.New(ctx, servertest.Redis(tb), servertest.Prefix(tb), dedup.Config{Window: time.Hour})
	if err != nil {
		fmt.Println(err)
		return
	}
	first := dedup.Batch{Root: "batch-1", Records: 3}
	for range 2 {
		v, err := window.Claim(ctx, first, nil, []string{"order-1", "order-2", "order-1"})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(v[0], v[1], v[2])
	}
	v, err := window.Claim(ctx, dedup.Batch{Root: "batch-2", Records: 2}, nil, []string{"order-2", "order-3"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(v[0], v[1])
	// Output:
	// fresh fresh duplicate
	// fresh fresh duplicate
	// duplicate fresh
}

// A record was rejected, and that is committed: its claim is given back, and the corrected record may come.
func ExampleDeduplicator_Release() {
	tb, cleanup := servertest.Example("dedup-release")
	defer cleanup()
	ctx := context.Background()

	window, err := dedup.New(ctx, servertest.Redis(tb), servertest.Prefix(tb), dedup.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	claim := func(batch string) {
		v, err := window.Claim(ctx, dedup.Batch{Root: batch, Records: 1}, nil, []string{"order-1"})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(batch, v[0])
	}
	claim("batch-1")
	claim("batch-2")
	released, err := window.Release(ctx, dedup.Claim{Root: "batch-1", Place: 0, ID: "order-1"})
	fmt.Println(released, err)
	claim("batch-3")
	// Output:
	// batch-1 fresh
	// batch-2 duplicate
	// 1 <nil>
	// batch-3 fresh
}

// Without batches: mark what comes by.
func ExampleDeduplicator_Mark() {
	tb, cleanup := servertest.Example("dedup-mark")
	defer cleanup()
	ctx := context.Background()

	window, err := dedup.New(ctx, servertest.Redis(tb), servertest.Prefix(tb), dedup.Config{Window: 10 * time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	fresh, err := window.Mark(ctx, "alarm-1", "alarm-2")
	fmt.Println(fresh, err)
	fresh, err = window.Mark(ctx, "alarm-2", "alarm-3")
	fmt.Println(fresh, err)
	// Output:
	// [true true] <nil>
	// [false true] <nil>
}
