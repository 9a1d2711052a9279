package staging_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// BenchmarkLanes promotes what is staged in two lanes: by one promoter, which takes one lane after
// the other, and by two at once. staging/lanes/insert is what the server gains from two plain
// INSERTs at once on this machine.
func BenchmarkLanes(b *testing.B) {
	pool := servertest.Postgres(b)
	tab := orderTable(b, pool, staging.Config[order]{Lanes: 2})
	const size, n = 5000, 400_000
	staged, registry := tab.Staging()
	truncate := "TRUNCATE orders, orders_ledger, " + strings.Join(append(staged, registry...), ", ")
	rows := orders(n)
	promoteAll := func(lane int) {
		for {
			p, err := tab.Promote(b.Context(), staging.PromoteOptions{Lane: lane, MaxRows: 50_000})
			if err != nil {
				b.Error(err)
				return
			}
			if len(p.Batches) == 0 {
				return
			}
		}
	}
	bench.Run(b, bench.Figure{Name: "staging/lanes", Unit: " rows/s", Setup: func(int) {
		exec(b, pool, truncate)
		for i, l := range batchesOf(rows, size) {
			for tab.LaneOf(l.Batch.ID) != 1+i%2 { // as many batches in each lane
				l.Batch.ID = staging.NewBatchID()
			}
			stage(b, tab, l, staging.OutcomeStaged)
		}
		exec(b, pool, "CHECKPOINT")
	},
		Bare: func(int) int { promoteAll(0); return n },
		Ours: func(int) int {
			var wg sync.WaitGroup
			for lane := 1; lane <= tab.Lanes(); lane++ {
				wg.Go(func() { promoteAll(lane) })
			}
			wg.Wait()
			return n
		},
	})
	exec(b, pool, `CREATE TABLE bare_target (LIKE orders INCLUDING ALL);
		CREATE UNLOGGED TABLE bare_1 AS SELECT * FROM orders WHERE hashtext(order_id) % 2 = 0;
		CREATE UNLOGGED TABLE bare_2 AS TABLE orders EXCEPT ALL TABLE bare_1`)
	insert := func(table string) {
		if _, err := pool.Exec(b.Context(), "INSERT INTO bare_target SELECT * FROM "+table+" ON CONFLICT DO NOTHING"); err != nil {
			b.Error(err)
		}
	}
	bench.Run(b, bench.Figure{Name: "staging/lanes/insert", Unit: " rows/s", Setup: func(int) {
		exec(b, pool, "TRUNCATE bare_target")
		exec(b, pool, "CHECKPOINT")
	},
		Bare: func(int) int { insert("bare_1"); insert("bare_2"); return n },
		Ours: func(int) int {
			var wg sync.WaitGroup
			for _, table := range []string{"bare_1", "bare_2"} {
				wg.Go(func() { insert(table) })
			}
			wg.Wait()
			return n
		},
	})
}
