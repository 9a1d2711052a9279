package dedup_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// BenchmarkStops notes how long one command of each operation holds the server at most.
func BenchmarkStops(b *testing.B) {
	c := redisxtest.NewStops(b, servertest.OwnRedis(b, "--auto-aof-rewrite-percentage", "0").Client(b))
	longest := func(what string, f func() error) {
		b.Helper()
		c.Reset()
		if err := f(); err != nil {
			b.Fatal(what, err)
		}
		bench.Note(b, "dedup/stops: %s: %.1f ms (%s, %d commands)", what, float64(c.Longest.Microseconds())/1000, c.How(), c.Commands)
	}
	ids := make([]string, dedup.MaxIDs)
	claims := make([]dedup.Claim, len(ids))
	for i := range ids {
		ids[i] = fmt.Sprintf("%016x", i*2654435761)
		claims[i] = dedup.Claim{Root: "a", Place: i, ID: ids[i]}
	}
	ctx := b.Context()
	for _, expected := range []int64{100_000, 10_000_000} {
		d := open(b, c, "w"+strconv.FormatInt(expected, 10), dedup.Config{ExpectedIDs: expected})
		of := fmt.Sprintf(" (window for %d ids)", expected)
		claimAll := func(root string) func() error {
			return func() error {
				_, err := d.Claim(ctx, dedup.Batch{Root: root, Records: len(ids)}, nil, ids)
				return err
			}
		}
		longest("first claim"+of, func() error { _, err := d.Mark(ctx, "first"); return err })
		longest("100,000 new ids"+of, claimAll("a"))
		longest("100,000 known ids"+of, claimAll("b"))
		longest("Seen of 100,000"+of, func() error { _, err := d.Seen(ctx, ids...); return err })
		longest("Undo of 100,000"+of, func() error { _, err := d.Undo(ctx, claims); return err })
		longest("Forget of 100,000"+of, func() error { _, err := d.Forget(ctx, ids...); return err })
		longest("Clear"+of, func() error { return d.Clear(ctx) })
	}
	d := open(b, c, "poison", dedup.Config{})
	same := make([]string, dedup.MaxIDs)
	for i := range same {
		same[i] = "the same id"
	}
	longest("100,000 times the same id", func() error {
		_, err := d.Claim(ctx, dedup.Batch{Root: "a", Records: len(same)}, nil, same)
		return err
	})
}
