package pipeline_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
)

// fullJob is the job that people run: orders with duplicates and bad ones go from the push to the
// durable table, and three dashboards are current at the end.
type fullJob struct {
	b     *testing.B
	app   *orders.App
	redis rueidis.Client
	pool  *pgxpool.Pool
	cpu   cpuMeter
}

// fullJobOrders is how many orders a round has: HEADRACE_FULL_JOB, or few enough for every run of
// the benchmarks. A figure for a document takes a million.
func fullJobOrders() int {
	if n, err := strconv.Atoi(os.Getenv("HEADRACE_FULL_JOB")); err == nil && n > 0 {
		return n
	}
	return 20_000
}

// newFullJob expects that many ids in a window.
func newFullJob(b *testing.B, ids int) *fullJob {
	b.Helper()
	ctx := b.Context()
	j := &fullJob{b: b, redis: servertest.Redis(b), pool: servertest.Postgres(b)}
	var err error
	depth, _ := strconv.Atoi(os.Getenv("HEADRACE_DEPTH"))
	if j.app, err = orders.OpenAs(ctx, j.redis, j.pool, servertest.Prefix(b), orders.Options{ExpectedIDs: int64(ids), Depth: depth}); err != nil {
		b.Fatal(err)
	}
	if err := j.app.Ensure(ctx); err != nil {
		b.Fatal(err)
	}
	lookups, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = j.app.RunLookups(lookups) })
	b.Cleanup(func() { cancel(); wg.Wait() })
	j.cpu = newCPUMeter(j.redis, j.pool)
	return j
}

func (j *fullJob) exec(sql string) {
	if _, err := j.pool.Exec(context.WithoutCancel(j.b.Context()), sql); err != nil {
		j.b.Fatalf("%s: %v", sql, err)
	}
}

// payloads are the orders of one round.
func (j *fullJob) payloads(seed uint64, n int) [][]byte {
	gen, err := orders.NewGenerator(orders.Config{Seed: seed, Orders: n, Duplicates: orders.DefaultDuplicates, Bad: orders.DefaultBad})
	if err != nil {
		j.b.Fatal(err)
	}
	all := make([][]byte, 0, n)
	for p := range gen.All() {
		all = append(all, p)
	}
	return all
}

// empty leaves nothing of the rounds before.
func (j *fullJob) empty() {
	tables := []string{"orders", "orders_rejects", "bare_target", "bare_staging"}
	for _, r := range j.app.Rollups {
		tables = append(tables, r.Table)
	}
	tables = append(tables, "sales_hourly_rollup_customers", "shipping_zone_stats_rollup_customers", "orders_customers")
	j.exec("TRUNCATE " + strings.Join(tables, ", ") + " RESTART IDENTITY")
	if err := j.app.Window.Clear(j.b.Context()); err != nil {
		j.b.Fatal(err)
	}
	j.exec("CHECKPOINT")
}

// run pushes the orders, while a worker and a promoter run, and returns when all are
// acknowledged. Then the dashboards are current: each promotion has merged them.
func (j *fullJob) run(payloads [][]byte) {
	ctx := context.WithoutCancel(j.b.Context())
	run, stop := context.WithCancel(ctx)
	defer stop()
	acked := make(chan struct{}, 1)
	worker, err := pipeline.NewWorker(j.app.Flow(), pipeline.WorkerConfig{Logger: quiet})
	if err != nil {
		j.b.Fatal(err)
	}
	promoter, err := pipeline.NewPromoter(j.app.Flow(), pipeline.PromoterConfig{Logger: quiet, Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
		if e.Op == pipeline.OpAck {
			select {
			case acked <- struct{}{}:
			default:
			}
		}
	})})
	if err != nil {
		j.b.Fatal(err)
	}
	before, err := j.app.Queue.Stats(ctx)
	if err != nil {
		j.b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = worker.Run(run) })
	wg.Go(func() { _ = promoter.Run(run) })
	for i := 0; i < len(payloads); i += 500 {
		if err := j.app.Push(ctx, payloads[i:min(i+500, len(payloads))]...); err != nil {
			j.b.Fatal(err)
		}
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := j.app.Queue.Stats(ctx)
		if err != nil {
			j.b.Fatal(err)
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
}

// figureFullJob compares the whole job with the bare tools' times for the same records, added
// up: pipelined LPUSH of 500, RPOP of 5,000, pipelined HSETNX, COPY of ready bytes into an UNLOGGED
// table, a sorted INSERT into a table with the same indexes, and one GROUP BY for each dashboard at
// the end. The bare tools neither decode nor look up, and lose records. HEADRACE_FULL_JOB=1000000
// sets the number of orders.
func figureFullJob(b *testing.B) {
	n := fullJobOrders()
	j := newFullJob(b, n)
	j.exec("CREATE UNLOGGED TABLE bare_staging (LIKE orders)")
	j.exec("CREATE TABLE bare_target (LIKE orders INCLUDING ALL)")
	for i := range orders.Views() {
		j.exec(fmt.Sprintf("CREATE TABLE bare_dashboard_%d AS %s LIMIT 0", i, orders.Views()[i].SQL))
	}
	var payloads [][]byte
	setup := func(round int) { payloads = j.payloads(uint64(round+100), n); j.empty() }
	setup(-2)
	j.run(payloads)
	rows := j.copyOut() // the rows that the bare COPY sends are those that headrace makes
	for _, r := range j.app.Rollups {
		if differences, err := r.Check(b.Context(), j.pool, 1); err != nil || len(differences) > 0 {
			b.Fatal(r.Table, differences, err)
		}
	}
	key := "{" + j.app.Queue.Name() + "}:bare"
	var sides [2]cpuSeconds
	measured := func(side, round int, f func()) int {
		before := j.cpu.read(b)
		f()
		if round >= 0 {
			sides[side] = sides[side].plus(j.cpu.read(b).minus(before), len(payloads))
		}
		return len(payloads)
	}
	bench.Run(b, bench.Figure{
		Name: "pipeline/full-job", Rounds: bench.MinRounds, Setup: setup,
		Ours: func(round int) int { return measured(0, round, func() { j.run(payloads) }) },
		Bare: func(round int) int {
			return measured(1, round, func() {
				bareRedis(b, j.redis, key, payloads, 5000)
				j.copyIn(rows)
				j.exec("INSERT INTO bare_target SELECT * FROM bare_staging ORDER BY order_id ON CONFLICT DO NOTHING")
				for i, v := range orders.Views() {
					j.exec(fmt.Sprintf("TRUNCATE bare_dashboard_%d", i))
					j.exec(fmt.Sprintf("INSERT INTO bare_dashboard_%d %s", i, strings.Replace(v.SQL, "FROM orders", "FROM bare_target", 1)))
				}
			})
		},
	})
	bench.Note(b, "pipeline/full-job: %d orders, CPU of headrace: %s", n, sides[0])
	bench.Note(b, "pipeline/full-job: %d orders, CPU of the bare tools: %s", n, sides[1])
}

// BenchmarkLargeTable prints the rate of each million orders against that of the first. After the
// first and after the last one it compares the two ways to keep the dashboards current: how long
// 5,000 more orders take through the whole pipeline, roll-ups included, and how long a concurrent
// refresh of the three views takes. HEADRACE_AT_MILLIONS=20 sets the number of millions; without it
// there is nothing to measure. HEADRACE_DEPTH sets the depth of the gate.
func BenchmarkLargeTable(b *testing.B) {
	millions, _ := strconv.Atoi(os.Getenv("HEADRACE_AT_MILLIONS"))
	if millions < 2 {
		return
	}
	j := newFullJob(b, millions*1_000_000)
	var first float64
	for i := range millions {
		payloads := j.payloads(uint64(i+1), 1_000_000)
		before, begun := j.cpu.read(b), time.Now()
		j.run(payloads)
		rate := float64(len(payloads)) / time.Since(begun).Seconds()
		if i == 0 {
			first = rate
		}
		spent := cpuSeconds{}.plus(j.cpu.read(b).minus(before), len(payloads))
		bench.Note(b, "pipeline/at-20m: million %d: %.0f/s, %.2f of the first; CPU %s", i+1, rate, rate/first, spent)
		if i == 0 || i == millions-1 {
			j.keepCurrent(i + 1)
		}
	}
}

// keepCurrent prints what it takes to bring the dashboards up to date, by roll-ups and by views.
func (j *fullJob) keepCurrent(million int) {
	const more = 5000
	var merged latencies
	for round := range bench.MinRounds {
		payloads := j.payloads(uint64(1_000*million+round), more)
		begun := time.Now()
		j.run(payloads)
		merged = append(merged, time.Since(begun))
	}
	begun := time.Now()
	if err := j.app.RefreshViews(j.b.Context()); err != nil {
		j.b.Fatal(err)
	}
	refreshed := time.Since(begun)
	median := merged.at(0.5)
	bench.Note(j.b, "pipeline/at-20m: after million %d: %d orders through the pipeline, roll-ups included, %v (median of %d); a refresh of the views %v, %.0f times that",
		million, more, median.Round(time.Millisecond), bench.MinRounds, refreshed.Round(time.Millisecond), refreshed.Seconds()/median.Seconds())
}

func (j *fullJob) copyOut() []byte {
	conn, err := j.pool.Acquire(j.b.Context())
	if err != nil {
		j.b.Fatal(err)
	}
	defer conn.Release()
	var buf bytes.Buffer
	if _, err := conn.Conn().PgConn().CopyTo(j.b.Context(), &buf, "COPY orders TO STDOUT (FORMAT binary)"); err != nil {
		j.b.Fatal(err)
	}
	return buf.Bytes()
}

func (j *fullJob) copyIn(rows []byte) {
	conn, err := j.pool.Acquire(j.b.Context())
	if err != nil {
		j.b.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Conn().PgConn().CopyFrom(j.b.Context(), bytes.NewReader(rows), "COPY bare_staging FROM STDIN (FORMAT binary)"); err != nil {
		j.b.Fatal(err)
	}
}

// cpuSeconds is the CPU time of the three programs. It does not depend on what else the machine
// does, as a rate does.
type cpuSeconds struct {
	postgres, redis, program float64
	records                  int
}

func (c cpuSeconds) minus(o cpuSeconds) cpuSeconds {
	return cpuSeconds{c.postgres - o.postgres, c.redis - o.redis, c.program - o.program, 0}
}

func (c cpuSeconds) plus(o cpuSeconds, records int) cpuSeconds {
	return cpuSeconds{c.postgres + o.postgres, c.redis + o.redis, c.program + o.program, c.records + records}
}

// String prints microseconds a record, which are seconds a million.
func (c cpuSeconds) String() string {
	us := func(s float64) float64 { return s * 1e6 / float64(max(c.records, 1)) }
	return fmt.Sprintf("Postgres %.1f, Redis %.1f, this program %.1f µs a record", us(c.postgres), us(c.redis), us(c.program))
}

// cpuMeter reads CPU times: of Redis by INFO, of this program by getrusage, of Postgres by /proc,
// where that shows the server's processes.
type cpuMeter struct {
	redis      rueidis.Client
	postmaster string // its pid, "" if unknown
}

func newCPUMeter(redis rueidis.Client, pool *pgxpool.Pool) cpuMeter {
	m := cpuMeter{redis: redis}
	database := pool.Config().ConnConfig.Database
	titles, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, t := range titles {
		if text, _ := os.ReadFile(t); bytes.HasPrefix(text, []byte("postgres: ")) && bytes.Contains(text, []byte(" "+database+" ")) {
			m.postmaster, _ = procStat(filepath.Dir(t))
		}
	}
	return m
}

// procStat returns the parent and the CPU time of a process and of its children that have ended.
func procStat(dir string) (parent string, seconds float64) {
	text, _ := os.ReadFile(filepath.Join(dir, "stat"))
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 15 {
		return "", 0
	}
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime in hundredths
		n, _ := strconv.ParseFloat(f, 64)
		seconds += n / 100
	}
	return fields[1], seconds
}

func (m cpuMeter) read(b *testing.B) (c cpuSeconds) {
	info, err := m.redis.Do(context.WithoutCancel(b.Context()), m.redis.B().Info().Section("cpu").Build()).ToString()
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "used_cpu_sys", "used_cpu_user", "used_cpu_sys_children", "used_cpu_user_children":
			n, _ := strconv.ParseFloat(value, 64)
			c.redis += n
		}
	}
	if c.program, err = ownCPU(); err != nil {
		b.Fatal(err)
	}
	if m.postmaster == "" {
		return c
	}
	_, c.postgres = procStat("/proc/" + m.postmaster)
	stats, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range stats {
		if parent, seconds := procStat(dir); parent == m.postmaster {
			c.postgres += seconds
		}
	}
	return c
}
