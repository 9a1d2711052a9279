package console_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline/console"
)

// queries counts the statements of a pool.
type queries struct{ n atomic.Int64 }

func (q *queries) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	q.n.Add(1)
	return ctx
}

func (q *queries) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// commands returns how many commands a server has been asked, those inside scripts not counted.
func commands(t *testing.T, c rueidis.Client) int64 {
	t.Helper()
	text, err := c.Do(t.Context(), c.B().Info().Section("commandstats").Build()).ToString()
	must(t, err)
	var sum int64
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":calls=")
		calls, _, _ := strings.Cut(rest, ",")
		if name == "cmdstat_evalsha" || name == "cmdstat_eval" || name == "cmdstat_hgetall" {
			n, err := strconv.ParseInt(calls, 10, 64)
			must(t, err)
			sum += n
		}
	}
	return sum
}

// watched are the pages that people leave open.
var watched = []string{"", "queue", "dead", "rejects", "batches", "tables", "health", "tables?window="}

// TestManyWatchersCostTheStoresWhatOneCosts counts what the stores are asked: by one person, by
// fifty, and with much more in the stores.
func TestManyWatchersCostTheStoresWhatOneCosts(t *testing.T) {
	server := servertest.OwnRedis(t)
	r := newRig(t, rigOptions{redis: server.Client(t)})
	r.push("a1 ok", "a2 refuse")
	r.run()
	r.fillWindows(1)
	counted := &queries{}
	cfg, err := pgxpool.ParseConfig(r.pool.Config().ConnString())
	must(t, err)
	cfg.ConnConfig.Tracer = counted
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	must(t, err)
	t.Cleanup(pool.Close)
	r.pipe.Postgres = pool
	asked := func(watchers int) (redis, postgres int64) {
		r.serve(func(c *console.Config) { c.Interval = time.Minute; c.Timeout = 10 * time.Second }) // all in one interval
		before, beforePostgres := commands(t, r.redis), counted.n.Load()
		var wg sync.WaitGroup
		for range watchers {
			wg.Go(func() {
				for _, p := range watched {
					if strings.HasSuffix(p, "=") {
						p += url.QueryEscape(r.windows.Name())
					}
					req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.base+p, nil)
					if err != nil {
						t.Error(err)
						return
					}
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					_ = resp.Body.Close()
					if resp.StatusCode != http.StatusOK {
						t.Errorf("%s: got %d, want 200", p, resp.StatusCode)
					}
				}
			})
		}
		wg.Wait()
		http.DefaultClient.CloseIdleConnections()
		return commands(t, r.redis) - before, counted.n.Load() - beforePostgres
	}
	asked(1) // the scripts are loaded now
	redis, postgres := asked(1)
	if redis == 0 || redis > 40 || postgres == 0 || postgres > 40 {
		t.Errorf("one person costs %d calls of Redis and %d of Postgres, want 1 to 40 each", redis, postgres)
	}
	many, manyPostgres := asked(50)
	if many != redis || manyPostgres != postgres {
		t.Errorf("fifty people cost %d calls of Redis and %d of Postgres, want %d and %d as one does", many, manyPostgres, redis, postgres)
	}
	var records []string
	for i := range 20_000 {
		records = append(records, fmt.Sprintf("m%d ok", i))
	}
	r.push(records...)
	r.fillWindows(300)
	if _, err := r.pool.Exec(t.Context(), `INSERT INTO items_ledger (id, kind, root, root_offset, records, kept, staged, promoted, sealed_at, committed_at)
		SELECT gen_random_uuid(), 'promoted', gen_random_uuid(), 0, 1, 1, 1, 1, now() - interval '2 hours', now() - m * interval '1 second' FROM generate_series(1, 20000) m`); err != nil {
		t.Fatal(err)
	}
	many, manyPostgres = asked(1)
	if many != redis || manyPostgres != postgres {
		t.Errorf("with 20,000 records and batches and 900 windows it is %d calls of Redis and %d of Postgres, want %d and %d as before", many, manyPostgres, redis, postgres)
	}
}

// TestNoPageWaitsForTheSumOfALargeLedger loads pages of a new console before it has the sum of the
// ledger.
func TestNoPageWaitsForTheSumOfALargeLedger(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.push("a1 ok", "a2 refuse")
	r.run()
	r.serve(func(c *console.Config) { c.Timeout = 10 * time.Second })
	release := make(chan struct{})
	r.handler.HoldSum(release)
	o := read[console.Overview](r, "overview.json")
	if !o.Summing || o.Verdict.State != "unknown" || len(o.Books) != 1 || o.Books[0].Name != "Redis" || len(o.Warnings) != 0 {
		t.Errorf("got %+v, want the books of Redis alone and that the ledger is being summed", o)
	}
	if len(o.Minutes) != 1 || len(o.Codes) != 1 || len(o.Stages) == 0 || o.Queue == nil || o.Staged == nil {
		t.Errorf("got %+v, want all the rest", o)
	}
	contains(t, r.get(""), "is shown when the ledger has been summed", "The ledger is being summed")
	close(release)
	eventually(t, func() error {
		if o = read[console.Overview](r, "overview.json"); o.Summing || o.Verdict.State != "ok" || len(o.Books) < 3 {
			return fmt.Errorf("got %+v, want all lines of the books", o)
		}
		return nil
	})
}

// TestTheThroughputIsReadByTheIndex makes sure that the throughput of the last hour does not read
// the whole ledger. A plan of a small table shows it where no scan of the table is allowed.
func TestTheThroughputIsReadByTheIndex(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	must(t, pgx.BeginFunc(t.Context(), r.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "SET LOCAL enable_seqscan = off"); err != nil {
			return err
		}
		rows, err := tx.Query(t.Context(), "EXPLAIN "+r.handler.Statement("minutes"))
		if err != nil {
			return err
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if text := strings.Join(plan, "\n"); err == nil && !strings.Contains(text, "items_ledger_at") {
			t.Errorf("got the plan\n%s\nwant one by the index items_ledger_at", text)
		}
		return err
	}))
}

// TestAStoreThatHangsIsNamedOnThePage loads pages while Redis takes every byte and answers none.
// The pages arrive although the traffic flows again only after the last of them.
func TestAStoreThatHangsIsNamedOnThePage(t *testing.T) {
	t.Parallel()
	proxy := redisxtest.NewProxy(t, servertest.RedisURL(t))
	r := newRig(t, rigOptions{})
	r.push("a1 ok", "a2 refuse")
	r.run()
	r.push("b1 ok")
	client := proxy.Client(t, nil)
	p, err := console.Open(t.Context(), client, r.pool, console.Names{Queue: r.queue.Name(), Table: r.pipe.Table})
	must(t, err)
	r.pipe = p
	r.serve(func(c *console.Config) { c.Timeout = 200 * time.Millisecond })

	eventually(t, func() error { // the first pages may be slower than the timeout
		if o := read[console.Overview](r, "overview.json"); len(o.Warnings) != 0 {
			return fmt.Errorf("got the warnings %v before Redis hangs, want none", o.Warnings)
		}
		return nil
	})
	proxy.Freeze()
	queueWarning := func(o console.Overview) *console.Warning {
		for _, g := range o.Warnings {
			if g.Part == "the queue" {
				return &g
			}
		}
		return nil
	}
	var o console.Overview
	eventually(t, func() error {
		o = read[console.Overview](r, "overview.json")
		if queueWarning(o) == nil {
			return fmt.Errorf("no warning for the queue in %v", o.Warnings)
		}
		return nil
	})
	g := queueWarning(o)
	if !strings.Contains(g.Reason, "Redis has not answered for") || g.ReadAt == nil || o.Queue == nil || o.Queue.Ready != 1 {
		t.Errorf("got the warning %+v and the queue %+v, want the old answer with its time", g, o.Queue)
	}
	if len(o.Minutes) == 0 || len(o.Codes) == 0 {
		t.Errorf("got %d minutes and %d codes, want what Postgres has", len(o.Minutes), len(o.Codes))
	}
	contains(t, r.get(""), "Not everything could be read", "Redis has not answered for")
	if q := read[console.QueuePage](r, "queue.json"); q.Batches != nil || len(q.Warnings) == 0 {
		t.Errorf("got the batches %+v and the warnings %v, want that they are missing", q.Batches, q.Warnings)
	}
	if got := r.request(http.MethodGet, r.server.URL+"/headrace/readyz", nil); got.status != http.StatusServiceUnavailable {
		t.Errorf("readyz: got %d, want 503", got.status)
	}
	if got := r.request(http.MethodGet, r.server.URL+"/headrace/livez", nil); got.status != http.StatusOK {
		t.Errorf("livez: got %d, want 200", got.status)
	}
	proxy.Thaw()
	eventually(t, func() error {
		if o := read[console.Overview](r, "overview.json"); len(o.Warnings) > 0 {
			return fmt.Errorf("got the warnings %v after Redis answers again", o.Warnings)
		}
		return nil
	})
}
