package staging_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

var modes = []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol}

func poolIn(t *testing.T, url string, mode pgx.QueryExecMode, conns int32) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.DefaultQueryExecMode = mode
	cfg.MaxConns = conns
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// everything goes once through all of the package.
func everything(t *testing.T, pool *pgxpool.Pool, name string) {
	t.Helper()
	tab := newTable(t, pool, name, staging.Config[item]{Create: true, Key: []string{"id"}, Rules: []staging.Rule{{Code: "low", Where: "n < 2"}}})
	l, void := load(items("a", 10)...), load(items("b", 10)...)
	l.Rejects, l.Batch.Records = []staging.Reject{{Pos: 10, Code: "x"}}, 11
	stage(t, tab, l, staging.OutcomeStaged)
	stage(t, tab, l, staging.OutcomeAlreadyStaged)
	if f, err := tab.Void(t.Context(), void.Batch); err != nil || f != staging.FateVoid {
		t.Error(f, err)
	}
	stage(t, tab, void, staging.OutcomeAlreadyVoid)
	if p := promote(t, tab); p.Rows != 8 || p.RejectedByRule != 2 {
		t.Errorf("%+v", p)
	}
	two := load(append(items("a", 10), item{ID: "c\x00"})...)
	stage(t, tab, two, staging.OutcomeStaged)
	if p := promote(t, tab); p.Conflicts != 8 || p.Rejected != 1 {
		t.Errorf("%+v", p)
	}
	if f := fates(t, tab, l.Batch.ID, void.Batch.ID); f[0] != staging.FatePromoted || f[1] != staging.FateVoid {
		t.Error(f)
	}
	if r, err := tab.RejectsByBatch(t.Context(), []string{l.Batch.ID}); err != nil || len(r[l.Batch.ID]) != 3 {
		t.Error(r, err)
	}
	rejects, err := tab.Rejects(t.Context(), staging.RejectFilter{Code: "low"})
	if err != nil || len(rejects) != 4 {
		t.Fatal(rejects, err)
	}
	if p, err := tab.Replay(t.Context(), []staging.Correction[item]{{Reject: rejects[0].ID, Rows: items("z", 5)[4:]}}); err != nil || p.Rows != 1 {
		t.Error(p, err)
	}
	if _, err := tab.Resolve(t.Context(), rejects[1].ID); err != nil {
		t.Error(err)
	}
	if _, err := tab.Prune(t.Context(), noon.AddDate(-10, 0, 0)); err != nil {
		t.Error(err)
	}
	if _, err := tab.Epoch(t.Context()); err != nil {
		t.Error(err)
	}
	balanced(t, tab)
}

func TestEveryModeOfPgx(t *testing.T) {
	t.Parallel()
	url := servertest.PostgresURL(t)
	for i, m := range modes {
		everything(t, poolIn(t, url, m, 4), fmt.Sprintf("items%d", i))
	}
}

func TestPgBouncer(t *testing.T) {
	t.Parallel()
	run := func(url string) {
		for i, m := range modes {
			everything(t, poolIn(t, url, m, 4), fmt.Sprintf("items%d", i))
		}
	}
	url := servertest.PgBouncer(t, servertest.PostgresURL(t), "default_pool_size=5")
	run(url)
	if hasPrepared(t, consoleOf(t, url)) {
		run(servertest.PgBouncer(t, servertest.PostgresURL(t), "default_pool_size=5", "max_prepared_statements=0"))
	}
}

// Two programs share connections of the server through a PgBouncer that does not follow prepared
// statements. A statement that one prepares by name is in the way of the other.
func TestTwoProgramsShareAConnectionOfTheServer(t *testing.T) {
	t.Parallel()
	database := servertest.PostgresURL(t)
	settings := []string{"default_pool_size=2"}
	if hasPrepared(t, consoleOf(t, servertest.PgBouncer(t, database, settings...))) {
		settings = append(settings, "max_prepared_statements=0")
	}
	url := servertest.PgBouncer(t, database, settings...)
	for range 2 {
		pool := poolIn(t, url, pgx.QueryExecModeCacheStatement, 2)
		tab := newTable(t, pool, "items", staging.Config[item]{Create: true, Key: []string{"id"}, Rules: []staging.Rule{{Code: "low", Where: "n < 2"}}})
		l := load(items("a", 3)...)
		stage(t, tab, l, staging.OutcomeStaged)
		promote(t, tab)
		balanced(t, tab)
		_, rerr := tab.Rejects(t.Context(), staging.RejectFilter{})
		_, berr := tab.RejectsByBatch(t.Context(), []string{l.Batch.ID})
		_, kerr := tab.RejectedKeys(t.Context(), []string{l.Batch.ID})
		_, cerr := tab.CodeCounts(t.Context())
		_, ferr := tab.FindKey(t.Context(), "a-0000")
		_, serr := tab.StageCounts(t.Context(), time.Time{})
		_, werr := staging.Rewrite[item, item]{Name: uid.New(), Source: "SELECT * FROM items", Key: "id",
			Transform: func(_ context.Context, in []item) ([]item, error) { return in, nil }}.Run(t.Context(), tab)
		if err := errors.Join(rerr, berr, kerr, cerr, ferr, serr, werr); err != nil {
			t.Error(err)
		}
	}
}

// hasPrepared reports whether PgBouncer follows prepared statements by default: since 1.24.
func hasPrepared(t *testing.T, c *pgx.Conn) bool {
	t.Helper()
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

// TestEightHundredClients: 800 connections of workers share 25 of the server.
func TestEightHundredClients(t *testing.T) {
	t.Parallel()
	const clients, servers, batches = 800, 25, 3
	url := servertest.PgBouncer(t, servertest.PostgresURL(t), "max_client_conn=1000", "default_pool_size="+strconv.Itoa(servers))
	pool := poolIn(t, url, pgx.QueryExecModeExec, clients)
	tab := newTable(t, pool, "items", staging.Config[item]{Create: true})
	held := make([]*pgxpool.Conn, clients)
	var wg sync.WaitGroup
	limit := make(chan struct{}, 40) // connects at once
	for i := range held {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			c, err := pool.Acquire(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			held[i] = c
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, c := range held {
		c.Release()
	}
	var peakClients, peakServers int
	for i := range clients {
		wg.Go(func() {
			for b := range batches {
				l := load(items(fmt.Sprintf("%d-%d", i, b), 20)...)
				if out, err := tab.Stage(t.Context(), l); err != nil || out != staging.OutcomeStaged {
					t.Error(out, err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	admin := consoleOf(t, url)
	rows := 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		c, s := pools(t, admin)
		peakClients, peakServers = max(peakClients, c), max(peakServers, s)
		if p, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err == nil {
			rows += p.Rows
		}
	}
	for p := promote(t, tab); len(p.Batches) > 0; p = promote(t, tab) {
		rows += p.Rows
	}
	if want := clients * batches * 20; rows != want {
		t.Errorf("%d rows, want %d", rows, want)
	}
	count(t, pool, clients*batches*20)
	balanced(t, tab)
	if peakClients < clients || peakServers > servers {
		t.Errorf("SHOW POOLS: %d clients on %d servers, want %d on at most %d", peakClients, peakServers, clients, servers)
	}
	t.Logf("SHOW POOLS: %d client connections on %d server connections; %d batches, %d rows", peakClients, peakServers, clients*batches, rows)
}

// consoleOf connects to PgBouncer's own database.
func consoleOf(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Database = "pgbouncer"
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	c, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) }) //nolint:errcheck // the test is over
	return c
}

// pools sums SHOW POOLS over everything but the console.
func pools(t *testing.T, c *pgx.Conn) (clients, servers int) {
	t.Helper()
	res, err := c.PgConn().Exec(t.Context(), "SHOW POOLS").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range res[0].Rows {
		if string(row[0]) == "pgbouncer" {
			continue
		}
		for i, f := range res[0].FieldDescriptions {
			n, _ := strconv.Atoi(string(row[i]))
			switch {
			case f.Name == "cl_active" || f.Name == "cl_waiting":
				clients += n
			case strings.HasPrefix(f.Name, "sv_") && (f.Name == "sv_active" || f.Name == "sv_idle" || f.Name == "sv_used" || f.Name == "sv_tested" || f.Name == "sv_login"):
				servers += n
			}
		}
	}
	return clients, servers
}
