package pipelinetest_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/pipelinetest"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

func TestMain(m *testing.M) { servertest.Main(m) }

func memoryQueue(*testing.T) pipelinetest.Pusher {
	q := pipelinetest.NewQueue("orders")
	q.MaxFailures, q.MaxCrashes = 2, 2
	return q
}

func realQueue(t *testing.T) pipelinetest.Pusher {
	q, err := queue.New(t.Context(), servertest.Redis(t), servertest.Prefix(t), queue.Config{Lease: queue.LeaseConfig{
		MaxFailures: 2, MaxCrashes: 2, Backoff: time.Millisecond, MaxBackoff: time.Millisecond, PollInterval: 20 * time.Millisecond,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// oneShard is a queue of three shards, all of whose records have one key. It has the name of their
// shard.
type oneShard struct{ *queue.Shards }

func (q oneShard) Name() string { return q.Queues()[q.ShardOf("key")].Name() }

func shardedQueue(t *testing.T) pipelinetest.Pusher {
	key := func([]byte) string { return "key" }
	q, err := queue.NewShards(t.Context(), servertest.Redis(t), servertest.Prefix(t), 3, key, queue.Config{Lease: queue.LeaseConfig{
		MaxFailures: 2, MaxCrashes: 2, Backoff: time.Millisecond, MaxBackoff: time.Millisecond, PollInterval: 20 * time.Millisecond,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return oneShard{q}
}

func TestQueues(t *testing.T) {
	t.Run("memory", func(t *testing.T) { pipelinetest.TestQueue(t, memoryQueue) })
	t.Run("Redis", func(t *testing.T) { pipelinetest.TestQueue(t, realQueue) })
	t.Run("shards", func(t *testing.T) { pipelinetest.TestQueue(t, shardedQueue) })
}

func TestWindows(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		pipelinetest.TestWindow(t, func(t *testing.T) (pipelinetest.Pusher, pipeline.Deduplicator) {
			q := memoryQueue(t)
			return q, pipelinetest.NewWindow(q.(*pipelinetest.Queue))
		})
	})
	t.Run("Redis", func(t *testing.T) {
		pipelinetest.TestWindow(t, func(t *testing.T) (pipelinetest.Pusher, pipeline.Deduplicator) {
			q := realQueue(t)
			w, err := dedup.New(t.Context(), servertest.Redis(t), q.Name(), dedup.Config{})
			if err != nil {
				t.Fatal(err)
			}
			return q, w
		})
	})
}

func TestTables(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		pipelinetest.TestTable(t, func(*testing.T) (pipeline.Table[pipelinetest.Row], func() []pipelinetest.Row) {
			table := pipelinetest.NewTable[pipelinetest.Row]()
			return table, table.Rows
		})
	})
	promoted := func(t *testing.T, pool *pgxpool.Pool) func() []pipelinetest.Row {
		return func() []pipelinetest.Row {
			rows, err := pool.Query(t.Context(), "SELECT id, value FROM rows")
			if err != nil {
				t.Fatal(err)
			}
			out, err := pgx.CollectRows(rows, pgx.RowToStructByName[pipelinetest.Row])
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
	}
	open := func(t *testing.T, pool *pgxpool.Pool, name string) *staging.Table[pipelinetest.Row] {
		table, err := staging.New(t.Context(), pool, name, staging.Config[pipelinetest.Row]{Create: true, ID: "id"})
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	t.Run("Postgres", func(t *testing.T) {
		pipelinetest.TestTable(t, func(t *testing.T) (pipeline.Table[pipelinetest.Row], func() []pipelinetest.Row) {
			pool := servertest.Postgres(t)
			return open(t, pool, "rows"), promoted(t, pool)
		})
	})
	t.Run("a group in Postgres", func(t *testing.T) {
		pipelinetest.TestTable(t, func(t *testing.T) (pipeline.Table[pipelinetest.Row], func() []pipelinetest.Row) {
			pool := servertest.Postgres(t)
			return staging.Group(
				staging.Into(open(t, pool, "others"), func(pipelinetest.Row) []pipelinetest.Row { return nil }),
				staging.Into(open(t, pool, "rows"), func(r pipelinetest.Row) []pipelinetest.Row { return []pipelinetest.Row{r} }),
			), promoted(t, pool)
		})
	})
}

// A real worker and promoter on stores in memory: rejected, duplicate and poison records, a crash
// of the table that empties staging. Each record ends once.
func TestPipelineInMemory(t *testing.T) {
	t.Parallel()
	q := pipelinetest.NewQueue("orders")
	q.MaxFailures = 1
	table := pipelinetest.NewTable[string]()
	table.Reject = func(s string) error {
		if s == "ruled" {
			return pipeline.Reject("rule", "as asked")
		}
		return nil
	}
	flow := pipeline.Flow[string]{Queue: q, Table: table, Chain: pipeline.Then3(
		pipeline.Decode(func(p []byte) (string, error) {
			if string(p) == "bad" {
				return "", pipeline.Reject("bad", "as asked")
			}
			return string(p), nil
		}),
		pipeline.Dedup(pipelinetest.NewWindow(q), func(s string) string { return s }),
		pipeline.Map("poison", func(s string) (string, error) {
			if s == "poison" {
				panic("poison")
			}
			return s, nil
		}),
	)}
	const good = 500
	for i := range good {
		must(t, q.Push(t.Context(), fmt.Appendf(nil, "good %d", i), fmt.Appendf(nil, "good %d", i/2)))
	}
	must(t, q.Push(t.Context(), []byte("bad"), []byte("ruled"), []byte("poison")))
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	crashed := false
	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{Records: 50, Logger: quiet, Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
		if e.Op == pipeline.OpHandoff && !crashed {
			crashed = true
			table.Crash()
		}
	})})
	must(t, err)
	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{PollInterval: 5 * time.Millisecond, ReconcileInterval: 5 * time.Millisecond, Logger: quiet})
	must(t, err)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	const all = 2*good + 3
	watch := pipeline.Every(5*time.Millisecond, "watching", quiet, func(ctx context.Context) error {
		s, err := q.Stats(ctx)
		if s.Acked+s.Dead == all {
			stop()
		}
		return err
	})
	must(t, pipeline.Run(ctx, worker, promoter, watch))
	books, err := flow.Books(t.Context())
	must(t, err)
	if err := books.Balanced(); err != nil || !books.Quiet {
		t.Errorf("books: %v, quiet %v", err, books.Quiet)
	}
	p := books.Postgres
	if len(table.Rows()) != good || p.Duplicates != good || p.Rejected != 1 || p.RejectedByRule != 1 || len(q.DeadLetters()) != 1 || string(q.DeadLetters()[0].Payload) != "poison" {
		t.Errorf("rows %d, %+v, dead %d, want %d rows, %d duplicates, 1 rejected, 1 ruled, 1 dead", len(table.Rows()), p, len(q.DeadLetters()), good, good)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
