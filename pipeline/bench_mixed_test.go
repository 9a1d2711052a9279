package pipeline_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/internal/bench"
)

// A reader of dashboards asks every few milliseconds, as some twenty open pages do together.
const dashboardPause = 5 * time.Millisecond

// idleTime is how long it reads while nothing else happens.
const idleTime = 5 * time.Second

// dashboardQueries are the three ways to read the hours of the sales dashboard.
func dashboardQueries() map[string]string {
	return map[string]string{
		"roll-up": "SELECT * FROM sales_hourly_rollup",
		"view":    "SELECT * FROM sales_hourly",
		"table":   orders.Views()[0].SQL,
	}
}

// BenchmarkMixed prints how long a dashboard's query takes while the pipeline loads at full speed,
// and how long it takes when nothing else happens: read from the roll-up, from the materialized
// view that a program refreshes meanwhile, and computed from the table. Each way has a load of its
// own, of HEADRACE_FULL_JOB orders, and rates of the loads are printed too.
func BenchmarkMixed(b *testing.B) {
	if b.N > 1 {
		return
	}
	j := newFullJob(b, 0)
	n := fullJobOrders()
	j.run(j.payloads(1, n)) // so that there is something to read
	if err := j.app.RefreshViews(b.Context()); err != nil {
		b.Fatal(err)
	}
	j.exec("VACUUM ANALYZE orders")
	seed := uint64(2)
	load := func() float64 {
		payloads := j.payloads(seed, n)
		seed++
		begun := time.Now()
		j.run(payloads)
		return float64(len(payloads)) / time.Since(begun).Seconds()
	}
	bench.Note(b, "pipeline/mixed: %.0f orders/s without a reader", load())
	for _, way := range []string{"roll-up", "view", "table"} {
		sql := dashboardQueries()[way]
		idle := readDashboards(b, j.pool, sql, func(context.Context) { <-time.After(idleTime) })
		var rate float64
		refreshes := 0
		busy := readDashboards(b, j.pool, sql, func(ctx context.Context) {
			refreshing, stop := context.WithCancel(ctx)
			var wg sync.WaitGroup
			if way == "view" {
				wg.Go(func() { // one refresh after the other, or the page would show nothing new
					for j.app.RefreshViews(refreshing) == nil {
						refreshes++
					}
				})
			}
			rate = load()
			stop()
			wg.Wait()
		})
		bench.Note(b, "pipeline/mixed: by %s: idle %s; while loading %s; %.0f orders/s, %d refreshes", way, idle, busy, rate, refreshes)
	}
}

// readDashboards runs a query again and again while f runs.
func readDashboards(b *testing.B, pool *pgxpool.Pool, sql string, f func(context.Context)) latencies {
	b.Helper()
	ctx := context.WithoutCancel(b.Context())
	done, stop := context.WithCancel(ctx)
	var took latencies
	var failed error
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(dashboardPause)
		defer tick.Stop()
		for done.Err() == nil {
			begun := time.Now()
			if _, failed = pool.Exec(ctx, sql); failed != nil {
				return
			}
			took = append(took, time.Since(begun))
			select {
			case <-done.Done():
			case <-tick.C:
			}
		}
	})
	f(done)
	stop()
	wg.Wait()
	if failed != nil {
		b.Fatal(failed)
	}
	return took
}

// latencies are the times that calls took.
type latencies []time.Duration

// at returns the time that a share of the calls did not exceed.
func (l latencies) at(share float64) time.Duration {
	slices.Sort(l)
	return l[int(share*float64(len(l)-1))]
}

// String prints the median and the 99th percentile, and of how many.
func (l latencies) String() string {
	round := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
	return fmt.Sprintf("median %v, 99 %% %v of %d", round(l.at(0.5)), round(l.at(0.99)), len(l))
}
