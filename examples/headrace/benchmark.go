package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline"
)

// benchmark runs generated orders through the whole pipeline, each step to its end before the next,
// and the bare tools on the same records: LPUSH, COPY and INSERT … SELECT. It works in a schema and
// under key names of its own and removes both.
type benchmark struct {
	Total   int `default:"100000" help:"Orders, 1000 to 10000000."`
	Batch   int `default:"2000" help:"Records of a batch, 1 to 100000."`
	Workers int `default:"2" help:"Batches processed at once, 1 to 64."`
}

// Validate is called by kong after parsing.
func (v *benchmark) Validate() error {
	for _, c := range []struct {
		flag      string
		n, lo, hi int
	}{{"--total", v.Total, 1000, 10_000_000}, {"--batch", v.Batch, 1, 100_000}, {"--workers", v.Workers, 1, 64}} {
		if err := between(c.flag, c.n, c.lo, c.hi); err != nil {
			return err
		}
	}
	return nil
}

// step is one row of the result.
type step struct {
	Name     string  `json:"step"`
	Records  int     `json:"records"`
	Seconds  float64 `json:"seconds"`
	Rate     float64 `json:"rate"`
	Bare     string  `json:"bare_tool,omitempty"`
	BareRate float64 `json:"bare_rate,omitempty"`
	Ratio    float64 `json:"ratio,omitempty"`
}

// Run measures the steps.
func (v *benchmark) Run(ctx context.Context, s *session) (err error) {
	redis, err := s.redis(ctx)
	if err != nil {
		return err
	}
	pool, err := s.postgres(ctx)
	if err != nil {
		return err
	}
	name := "benchmark-" + strings.ToLower(rand.Text()[:12])
	place := pgx.Identifier{strings.ReplaceAll(name, "-", "_")}.Sanitize()
	cleanup := func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_, dropped := pool.Exec(last, "SET LOCAL client_min_messages = error; DROP SCHEMA IF EXISTS "+place+" CASCADE")
		_, deleted := deleteKeys(last, redis, "{"+name+"*")
		if err == nil {
			err = firstError(dropped, deleted)
		}
	}
	if _, err := pool.Exec(ctx, "CREATE SCHEMA "+place); err != nil {
		return fmt.Errorf("the benchmark needs a schema of its own: %w", err)
	}
	defer cleanup()
	cfg := pool.Config().Copy()
	cfg.ConnConfig.RuntimeParams["search_path"] = strings.Trim(place, `"`)
	own, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer own.Close()
	app, err := orders.OpenAs(ctx, redis, own, name, orders.Options{ExpectedIDs: int64(v.Total)})
	if err != nil {
		return err
	}
	if err := app.Ensure(ctx); err != nil {
		return err
	}
	gen, err := orders.NewGenerator(orders.Config{Orders: v.Total, Seed: 1})
	if err != nil {
		return err
	}
	payloads := make([][]byte, 0, v.Total)
	for p := range gen.All() {
		payloads = append(payloads, p)
	}
	steps, err := v.measure(ctx, app, redis, name, payloads)
	if err != nil {
		return err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%-22s %10s %12s   %s\n", "step", "seconds", "records/s", "bare tool in the same run")
	for _, st := range steps {
		fmt.Fprintf(&text, "%-22s %10.3f %12.0f", st.Name, st.Seconds, st.Rate)
		if st.Bare != "" {
			fmt.Fprintf(&text, "   %s %.0f/s, ratio %.2f", st.Bare, st.BareRate, st.Ratio)
		}
		text.WriteByte('\n')
	}
	return s.print(map[string]any{"total": v.Total, "batch": v.Batch, "workers": v.Workers, "steps": steps}, text.String())
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// measure runs each step to its end, and then its bare tool.
func (v *benchmark) measure(ctx context.Context, app *orders.App, redis rueidis.Client, name string, payloads [][]byte) ([]step, error) {
	var steps []step
	timed := func(f func() error) (time.Duration, error) {
		start := time.Now()
		err := f()
		return time.Since(start), err
	}
	// Both sides of a step handle the same n records or rows.
	add := func(name string, n int, took time.Duration, bare string, bareTook time.Duration) {
		st := step{Name: name, Records: n, Seconds: took.Seconds(), Rate: float64(n) / took.Seconds(), Bare: bare}
		if bare != "" {
			st.BareRate = float64(n) / bareTook.Seconds()
			st.Ratio = st.Rate / st.BareRate
		}
		steps = append(steps, st)
	}

	push, err := timed(func() error { return pushAll(payloads, func(b [][]byte) error { return app.Queue.Push(ctx, b...) }) })
	if err != nil {
		return nil, err
	}
	bare, err := timed(func() error { return barePush(ctx, redis, "{"+name+"-bare}:list", payloads) })
	if err != nil {
		return nil, err
	}
	all := len(payloads)
	add("push", all, push, "LPUSH", bare)

	process, busy, err := v.process(ctx, app, all)
	if err != nil {
		return nil, err
	}
	add("process, all steps", all, process, "", 0)

	promoter, err := pipeline.NewPromoter(app.Flow(), pipeline.PromoterConfig{})
	if err != nil {
		return nil, err
	}
	promote, err := timed(func() error {
		for {
			if n, err := promoter.Promote(ctx); err != nil || n == 0 {
				return err
			}
		}
	})
	if err != nil {
		return nil, err
	}
	rows, copied, inserted, err := v.bareLoad(ctx, app)
	if err != nil {
		return nil, err
	}
	add("transform (busy)", all, busy[pipeline.OpTransform], "", 0)
	add("stage (busy)", rows, busy[pipeline.OpStage], "COPY", copied)
	add("promote", rows, promote, "INSERT … SELECT", inserted)
	add("in sum", all, push+process+promote, "", 0)
	return steps, nil
}

// chunk is the number of records of one LPUSH.
const chunk = 500

func pushAll(payloads [][]byte, push func([][]byte) error) error {
	for i := 0; i < len(payloads); i += chunk {
		if err := push(payloads[i:min(i+chunk, len(payloads))]); err != nil {
			return err
		}
	}
	return nil
}

func barePush(ctx context.Context, c rueidis.Client, key string, payloads [][]byte) error {
	return pushAll(payloads, func(part [][]byte) error {
		cmd := c.B().Lpush().Key(key).Element()
		for _, p := range part {
			cmd = cmd.Element(rueidis.BinaryString(p))
		}
		return c.Do(ctx, cmd.Build()).Error()
	})
}

// process runs a worker until every record is handed off. It returns the time and the time that the
// batches took in each step, added up.
func (v *benchmark) process(ctx context.Context, app *orders.App, records int) (took time.Duration, busy map[pipeline.Op]time.Duration, err error) {
	running, stop := context.WithCancel(ctx)
	defer stop()
	busy = make(map[pipeline.Op]time.Duration)
	var mu sync.Mutex
	done := 0
	worker, err := pipeline.NewWorker(app.Flow(), pipeline.WorkerConfig{
		Concurrency: v.Workers, Records: v.Batch,
		Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
			mu.Lock()
			defer mu.Unlock()
			if e.Err == nil {
				busy[e.Op] += e.Duration
			}
			if e.Op == pipeline.OpHandoff && e.Err == nil {
				if done += e.Records; done >= records {
					stop()
				}
			}
		}),
	})
	if err != nil {
		return 0, nil, err
	}
	start := time.Now()
	err = worker.Run(running)
	took = time.Since(start)
	mu.Lock()
	defer mu.Unlock()
	if err == nil && done < records {
		err = fmt.Errorf("%d of %d records were processed: %w", done, records, context.Cause(ctx))
	}
	return took, busy, err
}

// bareLoad copies the promoted rows into an UNLOGGED table of the same shape, and inserts them from
// there into a table with the same indexes.
func (v *benchmark) bareLoad(ctx context.Context, app *orders.App) (n int, copied, inserted time.Duration, err error) {
	conn, err := app.Postgres.Acquire(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	defer conn.Release()
	pg := conn.Conn().PgConn()
	for _, sql := range []string{
		"CREATE UNLOGGED TABLE bare_staging (LIKE orders)", "CREATE TABLE bare_orders (LIKE orders INCLUDING ALL)",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return 0, 0, 0, err
		}
	}
	var rows strings.Builder
	if _, err := pg.CopyTo(ctx, &rows, "COPY orders TO STDOUT BINARY"); err != nil {
		return 0, 0, 0, err
	}
	start := time.Now()
	tag, err := pg.CopyFrom(ctx, strings.NewReader(rows.String()), "COPY bare_staging FROM STDIN BINARY")
	if err != nil {
		return 0, 0, 0, err
	}
	copied = time.Since(start)
	start = time.Now()
	_, err = conn.Exec(ctx, "INSERT INTO bare_orders SELECT * FROM bare_staging ON CONFLICT DO NOTHING")
	return int(tag.RowsAffected()), copied, time.Since(start), err
}
