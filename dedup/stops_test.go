package dedup_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// BenchmarkStops notes the longest command of each operation, as the server's slow log has it:
// nothing else runs meanwhile. The median stands beside it: on a busy machine, the longest is the
// one during which the server did not run.
func BenchmarkStops(b *testing.B) {
	s := servertest.OwnRedis(b)
	c := s.Client(b)
	for name, value := range map[string]string{"slowlog-log-slower-than": "500", "slowlog-max-len": "100000"} {
		do(b, c, c.B().ConfigSet().ParameterValue().ParameterValue(name, value).Build())
	}
	longest := func(what string, f func() error) {
		b.Helper()
		do(b, c, c.B().SlowlogReset().Build())
		if err := f(); err != nil {
			b.Fatal(what, err)
		}
		entries, err := do(b, c, c.B().SlowlogGet().Count(-1).Build()).ToArray()
		if err != nil {
			b.Fatal(err)
		}
		var times []int64
		for _, e := range entries {
			f, err := e.ToArray()
			if err != nil || len(f) < 4 {
				b.Fatal(f, err)
			}
			us, err := f[2].AsInt64()
			if err != nil {
				b.Fatal(err)
			}
			times = append(times, us)
		}
		if len(times) == 0 {
			bench.Note(b, "dedup/stops: %s: no command over 0.5 ms", what)
			return
		}
		slices.Sort(times)
		bench.Note(b, "dedup/stops: %s: longest command %.1f ms, median %.1f ms of %d",
			what, float64(times[len(times)-1])/1000, float64(times[len(times)/2])/1000, len(times))
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
