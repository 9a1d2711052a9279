package together_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/staging"
)

// sale is a row of the target.
type sale struct {
	ID       int64   `db:"id"`
	Day      *int32  `db:"day"`
	Category *string `db:"category"`
	Buyer    *string `db:"buyer"`
	Amount   *int32  `db:"amount"`
	Raw      string  `db:"raw"`
}

// salesRollups are two roll-ups of one target, with every aggregate.
func salesRollups(replaces bool) []matview.Rollup {
	measures := []matview.Measure{
		{Name: "n", Aggregate: matview.AggregateCount},
		{Name: "priced", Expr: "amount", Aggregate: matview.AggregateCount},
		{Name: "total", Expr: "amount * 2", Aggregate: matview.AggregateSum, Type: "bigint"},
		{Name: "low", Expr: "amount", Aggregate: matview.AggregateMin, Type: "integer"},
		{Name: "high", Expr: "amount", Aggregate: matview.AggregateMax, Type: "integer"},
		{Name: "mean", Expr: "amount", Aggregate: matview.AggregateAverage},
		{Name: "buyers", Expr: "buyer", Aggregate: matview.AggregateDistinct, Type: "text"},
		{Name: "about", Expr: "buyer", Aggregate: matview.AggregateSketch, Precision: 4},
	}
	return []matview.Rollup{
		{
			Table: "daily", From: "sales", Replaces: replaces, Measures: measures,
			GroupBy: []matview.Column{{Name: "day", Type: "integer"}, {Name: "category", Type: "text"}},
		},
		{
			Table: "by_category", From: "sales", Replaces: replaces, Measures: measures[:7],
			GroupBy: []matview.Column{{Name: "category", Type: "text"}},
		},
	}
}

// Each roll-up equals the recomputed aggregate after every commit, distinct counts and sketches
// included. The target has one to three lanes, and more promoters than lanes promote random
// batches, of which rows conflict or replace others, are rejected by a rule or by the target, and
// have NULLs everywhere. Their connections are ended in the middle of it. One goroutine does
// nothing but compare; another one rebuilds. HEADRACE_ROUNDS sets the number of rounds,
// HEADRACE_SEED the seed.
func TestRollupsEqualTheRecomputation(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		target   string
		conflict staging.Conflict
		newer    string
		lanes    int // at most: without a rule which row is newer, batches of two lanes have no order
	}{
		"skip":              {"CREATE TABLE sales (%s) PARTITION BY HASH (id); CREATE TABLE s0 PARTITION OF sales FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE s1 PARTITION OF sales FOR VALUES WITH (MODULUS 2, REMAINDER 1)", staging.ConflictSkip, "", 3},
		"replace":           {"CREATE TABLE sales (%s)", staging.ConflictReplace, "", 1},
		"newer, with index": {"CREATE TABLE sales (%s); CREATE INDEX ON sales (day, category)", staging.ConflictReplace, "amount", 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rounds, seed := 10, rand.Uint64()
			if s := os.Getenv("HEADRACE_ROUNDS"); s != "" {
				rounds, _ = strconv.Atoi(s)
			}
			if s := os.Getenv("HEADRACE_SEED"); s != "" {
				seed, _ = strconv.ParseUint(s, 10, 64)
			}
			lanes := 1 + rand.New(rand.NewPCG(seed, 3)).IntN(c.lanes)
			t.Logf("seed %d, %d lanes", seed, lanes)
			pool := servertest.Postgres(t)
			must(t, pool, fmt.Sprintf(c.target, "id bigint PRIMARY KEY, day int, category text, buyer text, amount int CHECK (amount <> 13), raw text"))
			rollups := salesRollups(c.conflict == staging.ConflictReplace)
			cfg := staging.Config[sale]{
				Key: []string{"id"}, Conflict: c.conflict, Newer: c.newer, Lanes: lanes,
				Rules: []staging.Rule{{Code: "low", Where: "amount < 2"}},
			}
			for _, r := range rollups {
				if err := r.Create(t.Context(), pool); err != nil {
					t.Fatal(err)
				}
				merges, err := r.Merges()
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range merges {
					cfg.Merges = append(cfg.Merges, staging.Merge(m))
				}
			}
			workload(t, pool, cfg, rollups, rounds, seed)
			for _, r := range rollups {
				compare(t, pool, r)
			}
			noDeadlock(t, pool)
		})
	}
}

func must(t testing.TB, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := pool.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// compare fails the test with the first differences of a roll-up.
func compare(t *testing.T, pool *pgxpool.Pool, r matview.Rollup) {
	t.Helper()
	differences, err := r.Check(t.Context(), pool, 3)
	if err != nil {
		t.Error(err)
	}
	for _, d := range differences {
		t.Errorf("%s: %v", r.Table, d)
	}
}

// noDeadlock waits until the backends of the promoters have ended and reported what they have met.
// A promotion that meets a deadlock is tried again, so nothing else shows it.
func noDeadlock(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	for running := true; running; {
		if err := pool.QueryRow(t.Context(), `SELECT count(*) > 0, pg_sleep(0.01)::text IS NULL FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'promoter'`).Scan(&running, nil); err != nil {
			t.Fatal(err)
		}
	}
	var n int
	if err := pool.QueryRow(t.Context(), "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d deadlocks, %v, want 0", n, err)
	}
}

// workload stages and promotes, compares and rebuilds, and ends connections, all at once.
func workload(t *testing.T, pool *pgxpool.Pool, cfg staging.Config[sale], rollups []matview.Rollup, rounds int, seed uint64) {
	tables := make([]*staging.Table[sale], 2)
	for i := range tables {
		promoters := pool.Config().Copy()
		promoters.ConnConfig.RuntimeParams["application_name"] = "promoter"
		own, err := pgxpool.NewWithConfig(t.Context(), promoters)
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		if tables[i], err = staging.New(t.Context(), own, "sales", cfg); err != nil {
			t.Fatal(err)
		}
	}
	var running sync.WaitGroup
	var left atomic.Int32
	left.Store(int32(len(tables)))
	for i, tab := range tables {
		running.Go(func() {
			defer left.Add(-1)
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			for range rounds {
				stageSales(t, tab, rnd)
				promoteSome(t, tab, rnd)
			}
		})
	}
	for i := range cfg.Lanes {
		running.Go(func() {
			for rnd := rand.New(rand.NewPCG(seed, uint64(10+i))); left.Load() > 0; {
				promoteSome(t, tables[i%2], rnd)
			}
		})
	}
	running.Go(func() {
		for i := 0; left.Load() > 0; i++ {
			compare(t, pool, rollups[i%len(rollups)])
			if t.Failed() {
				return
			}
		}
	})
	running.Go(func() {
		for i := 0; left.Load() > 0; i++ {
			if n, err := rollups[i%len(rollups)].Rebuild(t.Context(), pool); err != nil || n != 0 && i >= len(rollups) {
				t.Errorf("rebuild changed %d rows: %v", n, err)
			}
			must(t, pool, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND application_name = 'promoter' AND state = 'active' AND random() < 0.3`)
		}
	})
	running.Wait()
	for i := 0; ; i++ {
		p, err := tables[i%2].Promote(t.Context(), staging.PromoteOptions{})
		if err == nil && len(p.Batches) == 0 && !p.More {
			break
		}
		if i > 1000 {
			t.Fatalf("promotions do not end: %+v, %v", p, err)
		}
	}
}

// promoteSome promotes a lane, or whichever is free. An ended connection is an error; the batches
// stay staged.
func promoteSome(t *testing.T, tab *staging.Table[sale], rnd *rand.Rand) {
	_, _ = tab.Promote(t.Context(), staging.PromoteOptions{MaxRows: 1 + rnd.IntN(200), Lane: rnd.IntN(1 + tab.Lanes())})
}

// stageSales stages one batch of few keys, as often as its connection is ended.
func stageSales(t *testing.T, tab *staging.Table[sale], rnd *rand.Rand) {
	some := func(n int) *int32 {
		if rnd.IntN(8) == 0 {
			return nil
		}
		v := int32(rnd.IntN(n))
		return &v
	}
	text := func(n int) *string {
		v := some(n)
		if v == nil {
			return nil
		}
		s := string('a' + *v)
		return &s
	}
	rows := make([]sale, 1+rnd.IntN(60))
	for i := range rows {
		rows[i] = sale{int64(rnd.IntN(300)), some(3), text(3), text(20), some(40), "a long document"}
	}
	l := staging.Load[sale]{Batch: staging.Batch{ID: staging.NewBatchID(), Records: len(rows)}, Rows: rows}
	for range 100 {
		_, err := tab.Stage(t.Context(), l)
		if err == nil {
			return
		}
		if errors.Is(err, staging.ErrConfig) || errors.Is(err, staging.ErrLoad) || t.Context().Err() != nil {
			t.Error(err)
			return
		}
	}
	t.Error("a batch cannot be staged")
}
