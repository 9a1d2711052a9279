package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// A worker runs until its context ends. An observer sees each step.
func ExampleWorker() {
	ctx, stop := context.WithCancel(context.Background())
	flow, q, cleanup := readings(ctx)
	defer cleanup()
	must(q.Push(ctx, []byte("attic 31"), []byte("cellar 12")))
	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{
		Name:        "example",
		Concurrency: 1,
		Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
			fmt.Println(e.Op, e.Records)
			if e.Op == pipeline.OpHandoff {
				stop()
			}
		}),
	})
	must(err)
	fmt.Println(worker.Run(ctx))
	// Output:
	// lease 2
	// transform 2
	// stage 2
	// handoff 2
	// <nil>
}

// A promoter usually runs in a program of its own. Here one promotes by hand.
func ExamplePromoter_Promote() {
	ctx, stop := context.WithCancel(context.Background())
	flow, q, cleanup := readings(ctx)
	defer cleanup()
	must(q.Push(ctx, []byte("attic 31"), []byte("cellar 12")))
	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
		if e.Op == pipeline.OpHandoff {
			stop()
		}
	})})
	must(err)
	must(worker.Run(ctx))

	ctx = context.Background()
	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{})
	must(err)
	batches, err := promoter.Promote(ctx)
	fmt.Println(batches, err)
	batches, err = promoter.Promote(ctx)
	fmt.Println(batches, err)
	fmt.Println(promoter.Reconcile(ctx)) // finds nothing to do
	stats, err := q.Stats(ctx)
	must(err)
	fmt.Println("acknowledged:", stats.Acked)
	// Output:
	// 1 <nil>
	// 0 <nil>
	// <nil>
	// acknowledged: 2
}

// A promoter refreshes views after its promotions, and once more when it stops.
func ExamplePromoter_Run() {
	ctx, stop := context.WithCancel(context.Background())
	flow, _, cleanup := readings(ctx)
	defer cleanup()
	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{
		Refresh: func(context.Context) error {
			fmt.Println("refreshed")
			stop()
			return nil
		},
	})
	must(err)
	fmt.Println(promoter.Run(ctx))
	// Output:
	// refreshed
	// <nil>
}

func ExampleFlow_Books() {
	ctx := context.Background()
	flow, q, cleanup := readings(ctx)
	defer cleanup()
	must(q.Push(ctx, []byte("attic 31")))
	_, err := q.Lease(ctx, queue.LeaseOptions{})
	must(err)

	books, err := flow.Books(ctx)
	must(err)
	for _, line := range books.Lines() {
		fmt.Printf("%s: %s\n", line.Name, line.Sum)
	}
	fmt.Println("balanced:", books.Balanced() == nil)
	// Output:
	// Redis: taken 1 = acked 0 + in flight 1 + dead 0 + discarded 0
	// Postgres: records 0 = kept 0 + duplicates 0 + filtered 0 + rejected 0
	// rows: rows of the kept 0 = promoted 0 + conflicts 0 + rejected by a rule 0
	// balanced: true
}

// The books of Redis are always whole; those of Postgres begin at the given time.
func ExampleFlow_BooksSince() {
	ctx := context.Background()
	flow, q, cleanup := readings(ctx)
	defer cleanup()
	must(q.Push(ctx, []byte("attic 31")))
	_, err := q.Lease(ctx, queue.LeaseOptions{})
	must(err)

	books, err := flow.BooksSince(ctx, time.Now().Add(-time.Hour))
	must(err)
	fmt.Println(books.Redis.Taken, "taken,", books.Postgres.Records, "committed in the last hour")
	// Output:
	// 1 taken, 0 committed in the last hour
}

// The error names the line, and by how much it is off.
func ExampleBooks_Balanced() {
	books := pipeline.Books{
		Redis:    queue.Stats{Taken: 10, Acked: 8, InFlight: 1},
		Postgres: staging.Books{Records: 8, Kept: 7, Rejected: 1, Staged: 7, Rows: 7},
	}
	text, _, _ := strings.Cut(books.Balanced().Error(), ": taken") // the figures follow
	fmt.Println(text)
	for _, line := range books.Lines() {
		fmt.Println(line.Name, line.Imbalance())
	}
	// Output:
	// pipeline: the books do not balance: Redis is off by 1
	// Redis 1
	// Postgres 0
	// rows 0
}

// A pool, and a Redis client, whose connections notice a peer that has vanished.
func ExampleTunePool() {
	pool, err := pgxpool.ParseConfig("postgres://localhost/shop")
	must(err)
	pipeline.TunePool(pool)
	fmt.Println(pool.PingTimeout, pool.ConnConfig.ConnectTimeout)

	redis := rueidis.ClientOption{InitAddress: []string{"localhost:6379"}, Dialer: *pipeline.Dialer()}
	fmt.Println(redis.Dialer.Timeout)
	// Output:
	// 2s 5s
	// 5s
}

// Signals wake other programs. Dashboards may listen too.
func ExampleSignals() {
	ctx, stop := context.WithCancel(context.Background())
	redis, _, name, cleanup := connect()
	defer cleanup()
	signals, err := pipeline.NewSignals(redis, name)
	must(err)
	heard, ended := make(chan pipeline.Signal), make(chan error)
	go func() {
		ended <- signals.Listen(ctx, func(s pipeline.Signal) {
			select {
			case heard <- s:
			case <-ctx.Done():
			}
		})
	}()
	for { // a signal before the subscription is lost: it is a hint
		must(signals.Send(ctx, pipeline.SignalRefreshed))
		select {
		case s := <-heard:
			stop()
			fmt.Println(s, <-ended)
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	// Output: refreshed context canceled
}

// A program starts before its stores: Await opens what it needs as soon as they are ready.
func ExampleAwait() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	redis, postgres, name, cleanup := connect()
	defer cleanup()
	var q *queue.Queue
	var table *staging.Table[reading]
	err := pipeline.Await(ctx, slog.Default(), func(ctx context.Context) (err error) {
		if q, err = queue.New(ctx, redis, name, queue.Config{}); err != nil {
			return err
		}
		table, err = staging.New(ctx, postgres, "readings", staging.Config[reading]{Create: true})
		return err
	})
	fmt.Println(err, q != nil, table.Name())
	// Output: <nil> true "public"."readings"
}

// One call runs the parts of a program and stops them in order.
func ExampleRun() {
	ctx, stop := context.WithCancel(context.Background())
	flow, q, cleanup := readings(ctx)
	defer cleanup()
	must(q.Push(ctx, []byte("attic 31"), []byte("cellar 12")))
	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{})
	must(err)
	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{})
	must(err)
	watch := pipeline.Every(10*time.Millisecond, "watching", slog.Default(), func(ctx context.Context) error {
		stats, err := q.Stats(ctx)
		if err == nil && stats.Acked == 2 {
			stop()
		}
		return err
	})
	fmt.Println(pipeline.Run(ctx, worker, promoter, watch))
	// Output: <nil>
}

// Drain waits until all that was pushed is accounted for.
func ExampleFlow_Drain() {
	ctx, stop := context.WithCancel(context.Background())
	flow, q, cleanup := readings(ctx)
	defer cleanup()
	must(q.Push(ctx, []byte("attic 31"), []byte("cellar 12")))
	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{})
	must(err)
	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{})
	must(err)
	ended := make(chan error)
	go func() { ended <- pipeline.Run(ctx, worker, promoter) }()
	fmt.Println(flow.Drain(ctx))
	stop()
	fmt.Println(<-ended)
	// Output:
	// <nil>
	// <nil>
}

func ExampleBooks_Throughput() {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	earlier := pipeline.Books{At: at}
	later := pipeline.Books{At: at.Add(10 * time.Second), Redis: queue.Stats{Taken: 500, Acked: 400}, Postgres: staging.Books{Rows: 300}}
	fmt.Printf("%+v\n", later.Throughput(earlier))
	// Output: {Taken:50 Accounted:40 Rows:30}
}

// Nothing is lost, but the promotions fail.
func ExampleBooks_Stuck() {
	since := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	stall := pipeline.Stall{Program: "promoter-1", Step: "promoting", Since: since, Failures: 12, Reason: "permission denied"}
	books := pipeline.Books{Stalls: []pipeline.Stall{stall}}
	fmt.Println(books.Balanced())
	fmt.Println(errors.Is(books.Stuck(), pipeline.ErrStuck))
	fmt.Println(stall)
	// Output:
	// <nil>
	// true
	// promoter-1: promoting, since 2026-01-01T12:00:00Z, 12 failures: permission denied
}

func ExampleEvery() {
	ctx, stop := context.WithCancel(context.Background())
	refresh := pipeline.Every(time.Hour, "refreshing views", slog.Default(), func(context.Context) error {
		fmt.Println("refreshed")
		stop()
		return nil
	})
	fmt.Println(refresh.Run(ctx))
	// Output:
	// refreshed
	// <nil>
}
