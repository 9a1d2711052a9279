package staging_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// BenchmarkGroup stages orders and their lines as a group, against the two tables one after the
// other. Both sides begin with the records.
func BenchmarkGroup(b *testing.B) {
	type orderLine struct {
		OrderID string `db:"order_id"`
		No      int32  `db:"no"`
		SKU     string `db:"sku"`
		Copies  int32  `db:"copies"`
	}
	type record struct {
		Order order
		Lines []orderLine
	}
	pool := servertest.Postgres(b)
	heads := orderTable(b, pool, staging.Config[order]{})
	lines := newTable(b, pool, "order_lines", staging.Config[orderLine]{Create: true, Key: []string{"order_id", "no"}, ID: "order_id"})
	group := staging.Group(
		staging.Into(heads, func(r record) []order { return []order{r.Order} }),
		staging.Into(lines, func(r record) []orderLine { return r.Lines }),
	)
	const size, n = 2000, 40_000
	records := make([]record, n)
	for i, o := range orders(n) {
		records[i].Order = o
		for no := range rand.Int32N(5) {
			records[i].Lines = append(records[i].Lines, orderLine{o.OrderID, no, fmt.Sprintf("SKU-%06d", rand.IntN(1_000_000)), 1 + rand.Int32N(5)})
		}
	}
	truncate := "TRUNCATE orders, order_lines"
	for _, t := range []interface {
		Staging() (staging, registry []string)
	}{heads, lines} {
		staged, registry := t.Staging()
		truncate += ", " + staged[0] + ", " + staged[1] + ", " + registry[0] + ", " + registry[1]
	}
	bench.Run(b, bench.Figure{Name: "staging/group", Setup: func(int) { exec(b, pool, truncate) },
		Bare: func(int) int {
			for part := range slices.Chunk(records, size) {
				one, two := load[order](), load[orderLine]()
				for i, r := range part {
					one.Rows = append(one.Rows, r.Order)
					for _, l := range r.Lines {
						two.Rows, two.Pos = append(two.Rows, l), append(two.Pos, int32(i))
					}
					if len(r.Lines) == 0 {
						two.Filtered++
					}
				}
				one.Batch.Records, two.Batch.Records = len(part), len(part)
				stage(b, heads, one, staging.OutcomeStaged)
				stage(b, lines, two, staging.OutcomeStaged)
			}
			return n
		},
		Ours: func(int) int {
			for part := range slices.Chunk(records, size) {
				if out, err := group.Stage(b.Context(), load(part...)); err != nil || out != staging.OutcomeStaged {
					b.Fatal(out, err)
				}
			}
			return n
		},
	})
}
