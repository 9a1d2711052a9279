package matview_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// two views over one table, the upper one listed first.
func twoViews() []matview.View {
	return []matview.View{
		{Name: "best", SQL: `SELECT max(total) AS total FROM totals -- a comment at the end`, DependsOn: []string{"totals"}},
		{Name: "totals", SQL: `SELECT product, sum(amount) AS total FROM sales GROUP BY product;`, UniqueIndex: []string{"product"}},
	}
}

func newSales(t testing.TB) *pgxpool.Pool {
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE sales (product text, amount numeric)`, `INSERT INTO sales VALUES ('pen', 2), ('ink', 5)`)
	return pool
}

// countRows is the token of these tests: good enough where rows are only added.
func countRows(pool *pgxpool.Pool) func(context.Context) (string, error) {
	return func(ctx context.Context) (n string, err error) {
		err = pool.QueryRow(ctx, `SELECT count(*)::text FROM sales`).Scan(&n)
		return n, err
	}
}

func newRefresher(t testing.TB, pool *pgxpool.Pool, cfg matview.Config) *matview.Refresher {
	t.Helper()
	return newNamed(t, pool, "dashboard", cfg)
}

func newNamed(t testing.TB, pool *pgxpool.Pool, name string, cfg matview.Config) *matview.Refresher {
	t.Helper()
	r, err := matview.New(t.Context(), pool, name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// refresh returns what happened, as "view action".
func refresh(t testing.TB, r *matview.Refresher, names ...string) []string {
	t.Helper()
	rep, err := r.Refresh(t.Context(), names...)
	if err != nil {
		t.Fatal(err)
	}
	return actions(rep)
}

func actions(rep matview.RefreshReport) []string {
	var out []string
	for _, v := range rep.Views {
		s := v.View + " " + v.Action.String()
		if v.Concurrent {
			s += " concurrently"
		}
		out = append(out, s)
	}
	return out
}

func want(t testing.TB, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestRefreshOrder(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	r := newRefresher(t, pool, matview.Config{Views: twoViews()})
	want(t, "first", refresh(t, r, "best"), []string{"totals refreshed", "best refreshed"})
	exec(t, pool, `INSERT INTO sales VALUES ('ink', 4)`)
	want(t, "second", refresh(t, r), []string{"totals refreshed concurrently", "best refreshed"})
	want(t, "best", one[string](t, pool, `SELECT total::text FROM best`), "9")
	want(t, "below only", refresh(t, r, "totals"), []string{"totals refreshed concurrently"})

	rep, err := r.Refresh(t.Context(), "totals", "nosuch")
	if !errors.Is(err, matview.ErrUnknownView) || !strings.Contains(err.Error(), `"nosuch"`) || rep.Views != nil {
		t.Errorf("unknown view: %v, %v", rep, err)
	}
}

func TestRefreshSkips(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	cfg := matview.Config{Views: twoViews(), Changed: countRows(pool)}
	r := newRefresher(t, pool, cfg)
	refresh(t, r, "totals")
	want(t, "the upper one never was", refresh(t, r), []string{"totals unchanged", "best refreshed"})
	want(t, "nothing new", refresh(t, r), []string{"totals unchanged", "best unchanged"})
	want(t, "nothing new for another process", refresh(t, newRefresher(t, pool, cfg)), []string{"totals unchanged", "best unchanged"})
	exec(t, pool, `INSERT INTO sales VALUES ('cap', 100)`)
	want(t, "new", refresh(t, r), []string{"totals refreshed concurrently", "best refreshed"})

	// A view that was dropped is made again, and the token of the old one says nothing about it.
	exec(t, pool, `DROP MATERIALIZED VIEW totals CASCADE`)
	if _, err := r.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "totals: object does not exist: the view was dropped") {
		t.Errorf("dropped view: %v", err)
	}
	r = newRefresher(t, pool, cfg)
	exec(t, pool, `REFRESH MATERIALIZED VIEW totals`)
	want(t, "made again", refresh(t, r), []string{"totals refreshed concurrently", "best refreshed"})
}

// A row that arrives while a run goes up from the lower view to the upper one must not be lost to
// the upper one. It would be if each view took its own token: the upper one's would be newer than
// the lower one's contents.
func TestTokenIsReadOnceARun(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	var calls atomic.Int32
	count := countRows(pool)
	r := newRefresher(t, pool, matview.Config{Views: twoViews(), Changed: func(ctx context.Context) (string, error) {
		if calls.Add(1) == 2 { // the second read, whenever it comes
			exec(t, pool, `INSERT INTO sales VALUES ('cap', 100)`)
		}
		return count(ctx)
	}})
	refresh(t, r)
	want(t, "reads of the token", calls.Load(), int32(1))
	refresh(t, r)
	want(t, "best", one[string](t, pool, `SELECT total::text FROM best`), "100")
}

// Two processes: the second one's run began before the first one's, so what the first one did is
// enough for it.
func TestRefreshSharedAcrossProcesses(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	inChanged, goOn := make(chan bool), make(chan bool)
	slow := newRefresher(t, pool, matview.Config{Views: twoViews(), Changed: func(context.Context) (string, error) {
		inChanged <- true
		<-goOn
		return "slow", nil
	}})
	fast := newRefresher(t, pool, matview.Config{Views: twoViews(), Changed: func(context.Context) (string, error) { return "fast", nil }})
	result := make(chan []string)
	go func() { result <- refresh(t, slow) }()
	<-inChanged
	want(t, "fast", refresh(t, fast), []string{"totals refreshed", "best refreshed"})
	close(goOn)
	want(t, "slow", <-result, []string{"totals shared", "best shared"})
}

// Many processes at once: no two refresh a view at the same time, none fails, and every one sees
// its own row.
func TestRefreshOneAtATime(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	var wg sync.WaitGroup
	for p := range 4 {
		r := newRefresher(t, pool, matview.Config{Views: twoViews(), Changed: countRows(pool)})
		wg.Go(func() {
			for i := range 5 {
				product := fmt.Sprintf("%d-%d", p, i)
				if _, err := pool.Exec(t.Context(), `INSERT INTO sales VALUES ($1, 1)`, product); err != nil {
					t.Error(err)
				}
				if _, err := r.Refresh(t.Context()); err != nil {
					t.Error(err)
				}
				var found bool
				if err := pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM totals WHERE product = $1)`, product).Scan(&found); err != nil || !found {
					t.Errorf("%s is not in the view after Refresh: %v", product, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestReadersDoNotWait(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	r := newRefresher(t, pool, matview.Config{Views: twoViews(), LockTimeout: 100 * time.Millisecond})
	refresh(t, r)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // read only
	if _, err := tx.Exec(t.Context(), `SELECT FROM totals, best`); err != nil {
		t.Fatal(err)
	}
	want(t, "with an index", refresh(t, r, "totals"), []string{"totals refreshed concurrently"})

	// best has no unique index: its refresh needs the lock that the reader has, and gives up in
	// time.
	rep, err := r.Refresh(t.Context())
	want(t, "without", actions(rep), []string{"totals refreshed concurrently", "best failed"})
	if err == nil || !strings.Contains(err.Error(), "refresh best: ") || !strings.Contains(err.Error(), "lock timeout") {
		t.Errorf("error: %v", err)
	}
	want(t, "reason", rep.Views[1].Reason, "it has no unique index on plain columns")
}

func TestRefreshFails(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	r := newRefresher(t, pool, matview.Config{Changed: countRows(pool), Views: []matview.View{
		{Name: "shares", SQL: `SELECT product, 100 / sum(amount) AS share FROM sales GROUP BY product`, UniqueIndex: []string{"product"}},
		{Name: "top", SQL: `SELECT max(share) AS share FROM shares`, DependsOn: []string{"shares"}},
		{Name: "other", SQL: `SELECT count(*) AS n FROM sales`},
	}})
	refresh(t, r)
	exec(t, pool, `INSERT INTO sales VALUES ('air', 0)`)
	rep, err := r.Refresh(t.Context())
	want(t, "zero", actions(rep), []string{"shares failed concurrently", "top blocked", "other refreshed"})
	if !errors.Is(err, matview.ErrBlocked) || !strings.Contains(err.Error(), "refresh shares: ERROR: division by zero") {
		t.Errorf("error: %v", err)
	}
	want(t, "as it was", one[string](t, pool, `SELECT round(share)::text FROM top`), "50")
	if _, err := r.Refresh(t.Context(), "other"); err != nil {
		t.Errorf("a caller who asked for another view: %v", err)
	}
	exec(t, pool, `UPDATE sales SET amount = 1 WHERE product = 'air'`) // the token stays, but the failed one has not got it
	want(t, "put right", refresh(t, r), []string{"shares refreshed concurrently", "top refreshed", "other unchanged"})
}

func TestDrift(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	newRefresher(t, pool, matview.Config{Views: twoViews()})
	spelled := twoViews()
	spelled[1].SQL = "select  product , SUM( amount ) as \"total\"\nfrom public.sales group by 1"
	newRefresher(t, pool, matview.Config{Views: spelled}) // the same query

	for _, c := range []struct {
		name, sql string
		want      []string
	}{
		{"query", `SELECT product, max(amount) AS total FROM sales GROUP BY product`, []string{`its query has "`, "sum(", "max("}},
		{"type", `SELECT product, sum(amount)::bigint AS total FROM sales GROUP BY product`, []string{`column "total" is numeric, the definition has bigint`}},
		{"column", `SELECT product, sum(amount) AS total, count(*) AS n FROM sales GROUP BY product`, []string{`column "n" (bigint) is missing`, `DROP MATERIALIZED VIEW "totals"`}},
	} {
		views := twoViews()
		views[1].SQL = c.sql
		_, err := matview.New(t.Context(), pool, "dashboard", matview.Config{Views: views})
		var drift *matview.DriftError
		if !errors.Is(err, matview.ErrDrift) || !errors.As(err, &drift) {
			t.Fatalf("%s: %v", c.name, err)
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q lacks %q", c.name, err, w)
			}
		}
	}
	_, err := matview.New(t.Context(), pool, "dashboard", matview.Config{Views: []matview.View{{Name: "sales", SQL: "SELECT 1"}}})
	if !errors.Is(err, matview.ErrDrift) {
		t.Errorf("a table of that name: %v", err)
	}
	_, err = matview.New(t.Context(), pool, "dashboard", matview.Config{Views: []matview.View{{Name: "broken", SQL: "SELECT nosuch FROM sales"}}})
	if !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), "the SQL of view broken: ERROR: column") {
		t.Errorf("broken query: %v", err)
	}
}

func TestNewTogether(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, err := matview.New(t.Context(), pool, "dashboard", matview.Config{Views: twoViews(), Populate: true}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want(t, "populated", one[string](t, pool, `SELECT total::text FROM best`), "5")
	want(t, "indexes", one[int](t, pool, `SELECT count(*)::int FROM pg_index WHERE indrelid = 'totals'::regclass`), 1)
}

// Transaction mode hands each transaction another server connection: session state would be lost
// or, worse, stay.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	direct := servertest.PostgresURL(t)
	settings := []string{"server_round_robin=1"} // each transaction gets another connection
	url := servertest.PgBouncer(t, direct, settings...)
	if followsPrepared(t, url) { // since 1.21
		url = servertest.PgBouncer(t, direct, append(settings, "max_prepared_statements=0")...)
	}
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement // pgx's default
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	plain, err := pgxpool.New(t.Context(), direct) // for the test's own statements
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	var held []pgx.Tx
	for range 3 { // so many server connections
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.Background()) //nolint:errcheck // it has ended
		if _, err := tx.Exec(t.Context(), "SELECT"); err != nil {
			t.Fatal(err)
		}
		held = append(held, tx)
	}
	for _, tx := range held {
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, pool, `CREATE SCHEMA "My Shop"`, `CREATE TABLE "My Shop".sales (product text, amount numeric)`, `INSERT INTO "My Shop".sales VALUES ('pen', 2)`)
	r := newNamed(t, pool, "My Shop.State", matview.Config{Views: []matview.View{
		{Name: "My Shop.Totals", SQL: `SELECT product AS "Product", sum(amount) AS total FROM "My Shop".sales GROUP BY 1`, UniqueIndex: []string{"Product"}},
	}})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 3 {
				if _, err := r.Refresh(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want(t, "again", refresh(t, r), []string{"My Shop.Totals refreshed concurrently"})
	roll := matview.Rollup{
		Table: "My Shop.Roll Up", From: "My Shop.sales", GroupBy: []matview.Column{{Name: "Product", Expr: "product", Type: "text"}},
		Measures: []matview.Measure{{Name: "Total", Expr: "amount", Aggregate: matview.AggregateSum}},
	}
	if err := roll.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if n, err := roll.Rebuild(t.Context(), pool); err != nil || n != 1 {
		t.Fatalf("rebuild: %d, %v", n, err)
	}
	if d, err := roll.Check(t.Context(), pool, 0); err != nil || len(d) > 0 {
		t.Errorf("check: %v, %v", d, err)
	}
	if f, err := r.Freshness(t.Context()); err != nil || len(f) != 1 || !f[0].Populated {
		t.Errorf("freshness: %+v, %v", f, err)
	}
	want(t, "locks left", one[int](t, plain, `SELECT count(*)::int FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`), 0)
}

// Connections that the server has ended while they were idle in the pool are no error.
func TestConnectionsThatEndWhileIdle(t *testing.T) {
	t.Parallel()
	own := newSales(t)
	cfg := own.Config()
	cfg.MaxConns, cfg.ConnConfig.RuntimeParams["application_name"] = 3, "idle"
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	views := matview.Config{Views: twoViews()}
	r := newRefresher(t, pool, views)
	roll := matview.Rollup{
		Table: "roll", From: "sales", GroupBy: []matview.Column{{Name: "product", Type: "text"}},
		Measures: []matview.Measure{{Name: "n", Aggregate: matview.AggregateCount}},
	}
	for _, call := range []struct {
		name string
		f    func() error
	}{
		{"Rollup.Create", func() error { return roll.Create(t.Context(), pool) }},
		{"Rollup.Rebuild", func() error { _, err := roll.Rebuild(t.Context(), pool); return err }},
		{"Refresh", func() error { _, err := r.Refresh(t.Context()); return err }},
		{"Freshness", func() error { _, err := r.Freshness(t.Context()); return err }},
		{"Open", func() error { _, err := matview.Open(t.Context(), pool, "dashboard", matview.Config{}); return err }},
	} {
		var idle []*pgxpool.Conn
		for range cfg.MaxConns {
			c, err := pool.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			idle = append(idle, c)
		}
		for _, c := range idle {
			c.Release()
		}
		const ended = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'idle'"
		exec(t, own, "SELECT pg_terminate_backend(pid) "+ended)
		servertest.Eventually(t, "the connections have ended", func() bool { return one[int](t, own, "SELECT count(*)::int "+ended) == 0 })
		if err := call.f(); err != nil {
			t.Errorf("%s: got %v, want nil", call.name, err)
		}
	}
}

// followsPrepared reports whether a PgBouncer knows the named statements of its clients.
func followsPrepared(t *testing.T, url string) bool {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Database, cfg.DefaultQueryExecMode = "pgbouncer", pgx.QueryExecModeSimpleProtocol
	c, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	res, err := c.PgConn().Exec(t.Context(), "SHOW CONFIG").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range res[0].Rows {
		if string(row[0]) == "max_prepared_statements" {
			return string(row[1]) != "0"
		}
	}
	return false
}

func TestFreshness(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	r := newRefresher(t, pool, matview.Config{Views: twoViews(), Changed: countRows(pool)})
	f, err := r.Freshness(t.Context())
	if err != nil || len(f) != 2 || f[0].View != "totals" || f[0].Populated || f[0].Rows != -1 || !f[0].AsOf.IsZero() {
		t.Fatalf("before: %+v, %v", f, err)
	}
	refresh(t, r)
	first, _ := r.Freshness(t.Context())
	refresh(t, r)
	second, _ := r.Freshness(t.Context())
	a, b := first[0], second[0]
	if !a.Populated || a.Rows != 2 || a.Bytes < 8192 || a.Duration <= 0 || a.Version != "2" || a.Refreshes != 1 || a.Age <= 0 || a.AsOf.After(a.RefreshedAt) {
		t.Errorf("after: %+v", a)
	}
	if b.Refreshes != 1 || !b.RefreshedAt.Equal(a.RefreshedAt) || !b.AsOf.After(a.AsOf) {
		t.Errorf("nothing new: as of should move, the refresh should not: %+v, then %+v", a, b)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	ok := matview.View{Name: "v", SQL: "SELECT 1"}
	w := matview.View{Name: "w", SQL: "SELECT 1", DependsOn: []string{"v"}}
	onW := matview.View{Name: "v", SQL: "SELECT 1", DependsOn: []string{"w"}}
	for want, cfg := range map[string]matview.Config{
		"Config.Views is empty, must have at least 1 view":                               {},
		"Config.Timeout is -1ns, must be 1ms to 24h":                                     {Views: []matview.View{ok}, Timeout: -1},
		"Config.LockTimeout is 48h0m0s, must be 1ms to 24h":                              {Views: []matview.View{ok}, LockTimeout: 48 * time.Hour},
		`Config.Views[1].Name is "\"v\"", must differ from that of every earlier view`:   {Views: []matview.View{ok, {Name: `"v"`, SQL: "SELECT 1"}}},
		"Config.Views[0].SQL is empty, must be a query":                                  {Views: []matview.View{{Name: "v", SQL: " ;\n"}}},
		`Config.Views[0].Name is "", must be name or schema.name, each of 1 to 63 bytes`: {Views: []matview.View{{SQL: "SELECT 1"}}},
		`x", must be name or schema.name, each of 1 to 63 bytes`:                         {Views: []matview.View{{Name: strings.Repeat("x", 64), SQL: "SELECT 1"}}},
		`Config.Views[0].DependsOn[0] is "w", must be the Name of a view`:                {Views: []matview.View{onW}},
		"Config.Views[].DependsOn has the cycle v → w → v, must have none":               {Views: []matview.View{onW, w}},
		"Config.Views[0].UniqueIndex[0] is empty, must be a column of the view":          {Views: []matview.View{{Name: "v", SQL: "SELECT 1", UniqueIndex: []string{""}}}},
		`Config.Views[0].UniqueIndex[1] is "a", must be another than an earlier column`:  {Views: []matview.View{{Name: "v", SQL: "SELECT 1 AS a", UniqueIndex: []string{"a", "a"}}}},
		"pool is nil, must be a *pgxpool.Pool":                                           {Views: []matview.View{ok}},
	} {
		if _, err := matview.New(t.Context(), nil, "dashboard", cfg); !errors.Is(err, matview.ErrConfig) || !strings.HasPrefix(err.Error(), "matview: invalid configuration: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	_, err := matview.New(t.Context(), nil, "a.b.c", matview.Config{Views: []matview.View{ok}})
	if !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), `name is "a.b.c", must be name or schema.name`) {
		t.Errorf("got %v", err)
	}
}

// The zero Refresher is an error: a panic in the goroutine of a refresh would end the program.
func TestEmptyRefresher(t *testing.T) {
	t.Parallel()
	if _, err := new(matview.Refresher).Refresh(t.Context()); !errors.Is(err, matview.ErrConfig) {
		t.Errorf("got %v, want ErrConfig", err)
	}
}
