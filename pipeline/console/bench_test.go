package console_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/console"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// waiting is how many records wait, and how many batches the ledger has.
const waiting = 1_000_000

// BenchmarkFigures loads the overview with everything on it read anew, while a million records wait
// and the ledger has a million batches. The bare tool asks the two stores for the depth and for the
// sum of the last hour alone.
func BenchmarkFigures(b *testing.B) {
	ctx := b.Context()
	redis, pool := servertest.Redis(b), servertest.Postgres(b)
	q, err := queue.New(ctx, redis, servertest.Prefix(b), queue.Config{})
	if err != nil {
		b.Fatal(err)
	}
	table, err := staging.New(ctx, pool, "readings", staging.Config[reading]{Create: true, Key: []string{"sensor"}})
	if err != nil {
		b.Fatal(err)
	}
	flow := pipeline.Flow[reading]{Queue: q, Table: table, Chain: pipeline.Decode(parseReading)}
	part := make([][]byte, 10_000)
	for i := range part {
		part[i] = fmt.Appendf(nil, "sensor-%d 21", i)
	}
	for range waiting / len(part) {
		if err := q.Push(ctx, part...); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := pool.Exec(ctx, `INSERT INTO readings_ledger (id, kind, root, root_offset, records, kept, staged, promoted, sealed_at, staged_at, committed_at, stages)
		SELECT id, 'promoted', id, 0, 100, 100, 100, 100, at, at, at, 'decode 0 0 0'
		FROM (SELECT gen_random_uuid() AS id, now() - m * interval '1 second' AS at FROM generate_series($1::int, 1, -1) m) x`, waiting); err != nil {
		b.Fatal(err)
	}
	if _, err := pool.Exec(ctx, "VACUUM ANALYZE readings_ledger"); err != nil {
		b.Fatal(err)
	}
	h, err := console.New(console.Config{Pipelines: []console.Pipeline{console.Of(flow, redis, pool)}, Timeout: 10 * time.Second, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	server := httptest.NewServer(h)
	defer server.Close()
	get := func(page string) string {
		r, err := http.Get(server.URL + "/p/" + q.Name() + "/" + page)
		if err != nil {
			b.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil || r.StatusCode != http.StatusOK {
			b.Fatalf("got %d, %v:\n%s", r.StatusCode, err, body)
		}
		return string(body)
	}
	load := func() { get("") }
	begin := time.Now()
	load()
	bench.Note(b, "console/overview: the first page of a console, which states that the ledger is being summed, took %v", time.Since(begin).Round(time.Millisecond))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for strings.Contains(get("overview.json"), `"ledger_being_summed": true`) {
		<-tick.C
	}
	bench.Note(b, "console/overview: a page had the sum of the ledger after %v", time.Since(begin).Round(time.Millisecond))
	begin = time.Now()
	load()
	bench.Note(b, "console/overview: a page from what was read a moment ago took %v", time.Since(begin).Round(10*time.Microsecond))
	bench.Run(b, bench.Figure{
		Name: "console/overview", Unit: " pages/s",
		Setup: func(int) { h.Forget() },
		Bare: func(int) int {
			if err := redis.Do(ctx, redis.B().Llen().Key("{"+q.Name()+"}:ready").Build()).Error(); err != nil {
				b.Fatal(err)
			}
			rows, err := pool.Query(ctx, "SELECT date_trunc('minute', committed_at), sum(records) FROM readings_ledger WHERE committed_at >= now() - interval '1 hour' GROUP BY 1")
			if err == nil {
				_, err = pgx.CollectRows(rows, pgx.RowToMap)
			}
			if err != nil {
				b.Fatal(err)
			}
			return 1
		},
		Ours: func(int) int { load(); return 1 },
	})
	http.DefaultClient.CloseIdleConnections()
}
