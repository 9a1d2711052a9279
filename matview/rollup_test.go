package matview_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

func daily() matview.Rollup {
	return matview.Rollup{
		Table: `"odd ""Daily"`, // names are quoted
		From:  "orders",
		GroupBy: []matview.Column{
			{Name: "day", Expr: "date_trunc('day', at, 'UTC')", Type: "timestamptz"},
			{Name: "product", Type: "text"},
		},
		Measures: []matview.Measure{
			{Name: "n", Aggregate: matview.AggregateCount},
			{Name: "priced", Expr: "amount", Aggregate: matview.AggregateCount},
			{Name: "total", Expr: "amount", Aggregate: matview.AggregateSum, Type: "numeric(14, 2)"},
			{Name: "low", Expr: "promoted.amount", Aggregate: matview.AggregateMin, Type: "numeric"},
			{Name: "high", Expr: "amount", Aggregate: matview.AggregateMax, Type: "double precision"},
		},
	}
}

// promotionSQL is one statement that inserts and merges, as a promotion does it.
func promotionSQL(r matview.Rollup, insert string) (string, error) {
	return promotionOf([]matview.Rollup{r}, insert)
}

func promotionOf(rollups []matview.Rollup, insert string) (string, error) {
	merges, err := matview.Merges(rollups...)
	sql := "WITH promoted AS (" + insert + " RETURNING *), replaced AS (SELECT * FROM promoted WHERE false)"
	for _, m := range merges {
		sql += ", " + pgx.Identifier{m.Name}.Sanitize() + " AS (" + m.SQL + ")"
	}
	return sql + " SELECT", err
}

func newTarget(t testing.TB) *pgxpool.Pool {
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE orders (at timestamptz, product text, amount numeric(12,2))`)
	return pool
}

// promote inserts n random rows and merges them, as a promotion does. Some products, amounts and
// times are NULL.
func promote(ctx context.Context, db matview.DB, r matview.Rollup, rnd *rand.Rand, n, products int) error {
	promotion, err := promotionSQL(r, `INSERT INTO orders SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::numeric[])`)
	if err != nil {
		return err
	}
	var products1, times, amounts []*string
	value := func(format string, args ...any) *string {
		if rnd.IntN(8) == 0 {
			return nil
		}
		s := fmt.Sprintf(format, args...)
		return &s
	}
	for range n {
		products1 = append(products1, value("p%d", rnd.IntN(products)))
		times = append(times, value("2026-01-%02d %02d:30:00+00", 1+rnd.IntN(3), rnd.IntN(24)))
		amounts = append(amounts, value("%d.%02d", rnd.IntN(100)-20, rnd.IntN(100)))
	}
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, callers := db.(pgx.Tx); !callers { // as a promotion begins
			if _, err := tx.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL READ COMMITTED`); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, promotion, times, products1, amounts)
		return err
	})
}

func same(t testing.TB, pool *pgxpool.Pool, r matview.Rollup) {
	t.Helper()
	diffs, err := r.Check(t.Context(), pool, 5)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range diffs {
		t.Error(d)
	}
}

// Promoters on several connections, in different time zones, merge into the same groups, while the
// roll-up is rebuilt and compared: it equals the recomputation at every moment. Without the sorted
// order the promoters deadlock; without NULLS NOT DISTINCT a NULL group has several rows; without
// the lock a rebuild loses or doubles what is being promoted.
func TestRollupEqualsRecomputation(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := daily()
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for p := range 4 {
		wg.Go(func() {
			conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close(context.WithoutCancel(t.Context()))
			zone := []string{"UTC", "Asia/Tokyo", "America/New_York", "Asia/Kolkata"}[p]
			if _, err := conn.Exec(t.Context(), `SET TIME ZONE '`+zone+`'`); err != nil {
				t.Error(err)
			}
			rnd := rand.New(rand.NewPCG(1, uint64(p)))
			for range 25 {
				if err := promote(t.Context(), conn, r, rnd, 1+rnd.IntN(400), 40); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop, rebuilt := make(chan bool), make(chan bool)
	go func() {
		defer close(rebuilt)
		repair := false
		for {
			select {
			case <-stop:
				return
			default:
			}
			// Every second rebuild has something to repair.
			var wrong pgconn.CommandTag
			err := pgx.BeginTxFunc(t.Context(), pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
				wrong, err = tx.Exec(t.Context(), `UPDATE "odd ""Daily" SET n = n + 1 WHERE day = '2026-01-01Z' AND product = 'p7' AND $1`, repair)
				return err
			})
			if err != nil {
				t.Error(err)
			}
			repair = !repair
			if n, err := r.Rebuild(t.Context(), pool); err != nil || n != wrong.RowsAffected() {
				t.Errorf("rebuild changed %d groups: %v, want %d", n, err, wrong.RowsAffected())
			}
			same(t, pool, r)
		}
	}()
	wg.Wait()
	close(stop)
	<-rebuilt
	same(t, pool, r)
	want(t, "rows", one[int](t, pool, `SELECT sum(n)::int FROM "odd ""Daily"`), one[int](t, pool, `SELECT count(*)::int FROM orders`))
	want(t, "NULL groups", one[int](t, pool, `SELECT count(*)::int FROM "odd ""Daily" WHERE day IS NULL AND product IS NULL`), 1)
}

// A group whose amounts were all NULL so far has a sum of NULL, which must not swallow what comes.
func TestRollupSumsAfterNull(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := daily()
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	for _, amount := range []string{"NULL", "5", "NULL", "2.5"} {
		promotion, err := promotionSQL(r, `INSERT INTO orders VALUES ('2026-01-01', 'pen', `+amount+`)`)
		if err != nil {
			t.Fatal(err)
		}
		exec(t, pool, promotion)
	}
	same(t, pool, r)
	want(t, "total", one[string](t, pool, `SELECT total || ' ' || low || ' ' || high || ' ' || n || ' ' || priced FROM "odd ""Daily"`), "7.50 2.50 5 4 2")
}

// A rebuild that has something to repair, and meets a promotion which has merged and not yet
// committed, waits for it. Without the
// lock it would write what the table held before: the promotion's rows would be lost to the
// roll-up.
func TestRebuildWaitsForPromotion(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := daily()
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	if err := promote(t.Context(), pool, r, rnd, 100, 3); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `UPDATE "odd ""Daily" SET n = n + 1 WHERE day IS NULL AND product IS NULL`)
	rebuildDuring(t, pool, r, rnd, 1)
}

// An empty roll-up is filled while a promotion is under way: what that one merges is added to. With
// Replaces the fill waits, and completes what the promotion has merged: 3 groups, and 3 values in
// each.
func TestFillDuringAPromotion(t *testing.T) {
	t.Parallel()
	for replaces, changes := range map[bool]int64{false: 3, true: 12} {
		pool := newTarget(t)
		exec(t, pool, `INSERT INTO orders SELECT NULL, 'p' || i % 3, i % 9 FROM generate_series(1, 100) i`)
		r := full(replaces)
		if err := r.Create(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		rebuildDuring(t, pool, r, newRand(9), changes)
	}
}

// rebuildDuring starts a rebuild that has to wait for a promotion under way.
func rebuildDuring(t *testing.T, pool *pgxpool.Pool, r matview.Rollup, rnd *rand.Rand, changes int64) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // committed below
	if err := promote(t.Context(), tx, r, rnd, 100, 3); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		n, err := r.Rebuild(t.Context(), pool)
		if err == nil && n != changes {
			err = fmt.Errorf("rebuild changed %d groups, want %d", n, changes)
		}
		done <- err
	}()
	untilLocked(t, pool, done)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	same(t, pool, r)
}

// untilLocked returns when a process of the database waits for a lock: the one that reports to
// done.
func untilLocked(t *testing.T, pool *pgxpool.Pool, done <-chan error) {
	t.Helper()
	for !one[bool](t, pool, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`) {
		select {
		case err := <-done:
			t.Fatal("it did not wait: ", err)
		default:
		}
	}
}

// A promotion that is rolled back leaves no trace in the roll-up.
func TestRollupRollsBack(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := daily()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // rolled back below
	if err := r.Create(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	if err := promote(t.Context(), tx, r, rand.New(rand.NewPCG(1, 1)), 10, 3); err != nil {
		t.Fatal(err)
	}
	if diffs, err := r.Check(t.Context(), tx, 0); err != nil || len(diffs) > 0 {
		t.Errorf("inside the transaction: %v, %v", diffs, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, "table", one[bool](t, pool, `SELECT to_regclass('"odd ""Daily"') IS NULL`), true)
}

func TestRollupCheckAndRebuild(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := matview.Rollup{
		Table: "by_product", From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}},
		Measures: []matview.Measure{{Name: "n", Aggregate: matview.AggregateCount}, {Name: "total", Expr: "amount", Aggregate: matview.AggregateSum}},
	}
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `INSERT INTO orders VALUES (NULL, 'ink', 1), (NULL, 'ink', 2), (NULL, 'pen', 3), (NULL, NULL, 4)`)
	if n, err := r.Rebuild(t.Context(), pool); n != 3 || err != nil {
		t.Fatalf("rebuild: %d, %v", n, err)
	}
	same(t, pool, r)
	exec(t, pool, `UPDATE by_product SET total = 7, n = 1 WHERE product = 'ink'`, `DELETE FROM by_product WHERE product IS NULL`, `INSERT INTO by_product VALUES ('cap', 1, NULL)`)
	diffs, err := r.Check(t.Context(), pool, 0)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "differences", fmt.Sprint(diffs), "[(cap): have (1, NULL), want none (ink): have (1, 7), want (2, 3.00) (NULL): have none, want (1, 4.00)]")
	diffs, _ = r.Check(t.Context(), pool, 2)
	want(t, "first two", fmt.Sprint(diffs), "[(cap): have (1, NULL), want none (ink): have (1, 7), want (2, 3.00)]")
	if _, err := r.Check(t.Context(), pool, -1); err == nil || !strings.Contains(err.Error(), "limit is -1, must be 0 to 1000000") {
		t.Error(err)
	}
	ink := `SELECT xmin::text FROM by_product WHERE product = 'pen'`
	before := one[string](t, pool, ink)
	if n, err := r.Rebuild(t.Context(), pool); n != 3 || err != nil {
		t.Fatalf("rebuild: %d, %v", n, err)
	}
	same(t, pool, r)
	want(t, "what was right is not rewritten", one[string](t, pool, ink), before)
}

func TestRollupCreate(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if err := daily().Create(t.Context(), pool); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r := daily()
	r.Measures[2].Type = "decimal(14,2)" // another spelling
	if err := r.Create(t.Context(), pool); err != nil {
		t.Error(err)
	}
	r.Measures[2].Type = "numeric"
	r.Measures[3].Name = "lowest"
	err := r.Create(t.Context(), pool)
	var drift *matview.DriftError
	if !errors.As(err, &drift) {
		t.Fatal(err)
	}
	want(t, "drift", drift.Differences, []string{
		`column "total" is numeric(14,2), the definition has numeric`,
		`column "lowest" (numeric) is missing`,
		`column "low" (numeric) is not in the definition`,
	})
}

func TestRollupErrors(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(r *matview.Rollup){
		`Rollup.Table is "", must be name or schema.name`:                                 func(r *matview.Rollup) { r.Table = "" },
		`Rollup.From is "", must be name or schema.name`:                                  func(r *matview.Rollup) { r.From = "" },
		`Rollup.GroupBy has 0 columns, must have 1 to 32`:                                 func(r *matview.Rollup) { r.GroupBy = nil },
		`Rollup.Measures has 0 columns, must have 1 to 150`:                               func(r *matview.Rollup) { r.Measures = nil },
		`Rollup.GroupBy[1].Type (column product) is empty, must be an SQL type`:           func(r *matview.Rollup) { r.GroupBy[1].Type = "" },
		`Rollup.Measures[0].Name is "day", must differ from that of every earlier column`: func(r *matview.Rollup) { r.Measures[0].Name = "day" },
		`Rollup.Measures[0].Name is "", must be 1 to 63 bytes without NUL`:                func(r *matview.Rollup) { r.Measures[0].Name = "" },
		`Rollup.Measures[0].Aggregate (column n) is 0, must be AggregateSum`:              func(r *matview.Rollup) { r.Measures[0].Aggregate = 0 },
		`Rollup.Measures[2].Expr (column total) is empty, must be an expression`:          func(r *matview.Rollup) { r.Measures[2].Expr = "" },
		`Rollup.Measures[3].Type (column low) is empty, must be an SQL type`:              func(r *matview.Rollup) { r.Measures[3].Type = "" },
		`Rollup.Measures[1] (column low_values) needs a table`: func(r *matview.Rollup) {
			r.Measures = []matview.Measure{
				{Name: "low", Expr: "amount", Type: "numeric", Aggregate: matview.AggregateDistinct},
				{Name: "low_values", Expr: "amount", Type: "numeric", Aggregate: matview.AggregateDistinct},
			}
		},
	} {
		r := daily()
		change(&r)
		if _, err := r.Merges(); !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
