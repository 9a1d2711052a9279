package pipeline_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
)

const benchRecords = 50_000

// BenchmarkFigures compares the whole way of an order, from the push to the acknowledgement, with
// the bare tools' times for the same records added up: pipelined LPUSH, RPOP with a count,
// pipelined HSETNX, COPY of ready bytes into an UNLOGGED table, INSERT … SELECT … ON CONFLICT DO
// NOTHING. The bare tools neither decode nor look up, and lose records.
func BenchmarkFigures(b *testing.B) {
	ctx := context.Background()
	redis, pool, name := servertest.Redis(b), servertest.Postgres(b), servertest.Prefix(b)
	app, err := orders.Open(ctx, redis, pool, name)
	if err != nil {
		b.Fatal(err)
	}
	if err := app.Ensure(ctx); err != nil {
		b.Fatal(err)
	}
	lookups, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = app.RunLookups(lookups) })
	defer wg.Wait()
	defer cancel()
	must := func(sql string) {
		if _, err := pool.Exec(ctx, sql); err != nil {
			b.Fatal(err)
		}
	}
	must("CREATE UNLOGGED TABLE bare_staging (LIKE orders)")
	must("CREATE TABLE bare_target (LIKE orders INCLUDING ALL)")
	must("INSERT INTO bare_staging SELECT * FROM orders")

	var payloads [][]byte
	setup := func(round int) {
		gen, err := orders.NewGenerator(orders.Config{Seed: uint64(round + 100), Orders: benchRecords, Duplicates: 0.05})
		if err != nil {
			b.Fatal(err)
		}
		payloads = payloads[:0]
		for p := range gen.All() {
			payloads = append(payloads, p)
		}
		must("TRUNCATE orders")
		must("TRUNCATE bare_target")
		must("TRUNCATE bare_staging")
		if err := app.Window.Clear(ctx); err != nil {
			b.Fatal(err)
		}
		must("CHECKPOINT")
	}
	ours := func(int) int {
		run, stop := context.WithCancel(ctx)
		acked := make(chan struct{}, 1)
		worker, err := pipeline.NewWorker(app.Flow(), pipeline.WorkerConfig{Logger: quiet})
		if err != nil {
			b.Fatal(err)
		}
		promoter, err := pipeline.NewPromoter(app.Flow(), pipeline.PromoterConfig{Logger: quiet, Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
			if e.Op == pipeline.OpAck {
				select {
				case acked <- struct{}{}:
				default:
				}
			}
		})})
		if err != nil {
			b.Fatal(err)
		}
		before, err := app.Queue.Stats(ctx)
		if err != nil {
			b.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { _ = worker.Run(run) })
		wg.Go(func() { _ = promoter.Run(run) })
		for i := 0; i < len(payloads); i += 500 {
			if err := app.Push(ctx, payloads[i:min(i+500, len(payloads))]...); err != nil {
				b.Fatal(err)
			}
		}
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			st, err := app.Queue.Stats(ctx)
			if err != nil {
				b.Fatal(err)
			}
			if st.Acked-before.Acked == int64(len(payloads)) {
				break
			}
			select {
			case <-acked:
			case <-tick.C:
			}
		}
		stop()
		wg.Wait()
		return len(payloads)
	}
	bare := func(int) int {
		key := "{" + name + "}:bare"
		bareRedis(b, redis, key, payloads, 2000)
		must("INSERT INTO bare_target SELECT * FROM bare_staging ON CONFLICT DO NOTHING")
		return len(payloads)
	}
	// The rows that the bare COPY sends are those that headrace made of the same orders.
	copyRows := func() []byte {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Release()
		var buf bytes.Buffer
		if _, err := conn.Conn().PgConn().CopyTo(ctx, &buf, "COPY orders TO STDOUT (FORMAT binary)"); err != nil {
			b.Fatal(err)
		}
		return buf.Bytes()
	}
	setup(-2)
	ours(0)
	rows := copyRows()
	if n := binary.Size(rows); n < benchRecords {
		b.Fatal(fmt.Errorf("the copied rows have %d bytes", n))
	}
	bareWithCopy := func(round int) int {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(rows), "COPY bare_staging FROM STDIN (FORMAT binary)"); err != nil {
			b.Fatal(err)
		}
		conn.Release()
		return bare(round)
	}
	bench.Run(b, bench.Figure{Name: "pipeline/end-to-end", Rounds: 5, Setup: setup, Bare: bareWithCopy, Ours: ours})
	if b.N == 1 {
		figureFullJob(b)
	}
}

// bareRedis pushes, pops so many at once, and marks the records with the barest commands,
// pipelined.
func bareRedis(b *testing.B, c rueidis.Client, key string, payloads [][]byte, pop int) {
	ctx := context.Background()
	check := func(rs []rueidis.RedisResult) {
		for _, r := range rs {
			if err := r.Error(); err != nil {
				b.Fatal(err)
			}
		}
	}
	var cmds []rueidis.Completed
	for i := 0; i < len(payloads); i += 500 {
		push := c.B().Lpush().Key(key).Element()
		for _, p := range payloads[i:min(i+500, len(payloads))] {
			push = push.Element(rueidis.BinaryString(p))
		}
		cmds = append(cmds, push.Build())
	}
	check(c.DoMulti(ctx, cmds...))
	for left := len(payloads); left > 0; left -= pop {
		if err := c.Do(ctx, c.B().Rpop().Key(key).Count(int64(pop)).Build()).Error(); err != nil {
			b.Fatal(err)
		}
	}
	for i := 0; i < len(payloads); i += 1000 {
		cmds = cmds[:0]
		for j := i; j < min(i+1000, len(payloads)); j++ {
			cmds = append(cmds, c.B().Hsetnx().Key(key+":seen").Field(fmt.Sprintf("ORD-%013d", j)).Value("1").Build())
		}
		check(c.DoMulti(ctx, cmds...))
	}
	if err := c.Do(ctx, c.B().Unlink().Key(key+":seen").Build()).Error(); err != nil {
		b.Fatal(err)
	}
}
