package pipeline_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// randomPlan is the shape of a pipeline: its chain, its tables, their lanes, and its shards.
type randomPlan struct {
	stages  []string // after Decode
	copies  pipeline.Copies
	tables  []string // several: a group
	lanes   int
	shards  int // 0: a queue without shards
	records int // of a batch
	crashes int // before a batch is split
}

func drawPlan(rnd *rand.Rand) (p randomPlan) {
	p.stages = []string{"filter", "refuse", "spread", "same"}
	if rnd.IntN(4) > 0 {
		p.stages = append(p.stages, "dedup")
	}
	rnd.Shuffle(len(p.stages), func(i, j int) { p.stages[i], p.stages[j] = p.stages[j], p.stages[i] })
	d, s := slices.Index(p.stages, "dedup"), slices.Index(p.stages, "spread")
	if d > s { // no chain may spread before it deduplicates
		p.stages[d], p.stages[s] = p.stages[s], p.stages[d]
	}
	p.copies = pipeline.Copies(rnd.IntN(3))
	p.tables = [][]string{{"items"}, {"items"}, {"items", "parts"}, {"parts", "notes", "items"}}[rnd.IntN(4)]
	p.lanes, p.shards, p.records = 1, rnd.IntN(4), 1+rnd.IntN(60)
	p.crashes = 1 + rnd.IntN(3)
	if len(p.tables) == 1 {
		p.lanes += rnd.IntN(3)
	}
	return p
}

// open opens the pipeline of a plan, as each of its programs does.
func (p randomPlan) open(ctx context.Context, redis rueidis.Client, pool *pgxpool.Pool, name string) (f pipeline.Flow[item], err error) {
	lease := queue.LeaseConfig{Backoff: 10 * time.Millisecond, PollInterval: 20 * time.Millisecond, MaxCrashes: p.crashes}
	var window pipeline.Deduplicator
	if p.shards > 0 {
		s, err := pipeline.NewShards(ctx, redis, name, p.shards, pipeline.ShardsConfig{Key: itemKey, NoGate: true, Queue: queue.Config{Lease: lease}})
		if err != nil {
			return f, err
		}
		f.Queue, f.Signals, window = s.Queue, s.Signals, s.Window
	} else {
		if f.Queue, err = queue.New(ctx, redis, name, queue.Config{Lease: lease}); err != nil {
			return f, err
		}
		if window, err = dedup.New(ctx, redis, name, dedup.Config{}); err != nil {
			return f, err
		}
		if f.Signals, err = pipeline.NewSignals(redis, name); err != nil {
			return f, err
		}
	}
	f.Chain = pipeline.Decode(decodeItem)
	for _, s := range p.stages {
		f.Chain = pipeline.Then(f.Chain, map[string]pipeline.Stage[item, item]{
			"dedup":  pipeline.DedupWith(window, itemID, pipeline.DedupConfig{Copies: p.copies}),
			"filter": pipeline.Filter("filter", func(v item) bool { return v.Kind != "filter" }),
			"refuse": pipeline.Map("refuse", refuse),
			"same":   pipeline.MapBatch("same", func(_ context.Context, in []item) ([]item, []error, error) { return in, nil, nil }),
			"spread": pipeline.FlatMap("spread", func(v item) ([]item, error) {
				return slices.Repeat([]item{v}, map[string]int{"three": 3, "none": 0}[v.Kind]+map[bool]int{true: 1}[v.Kind != "three" && v.Kind != "none"]), nil
			}),
		}[s])
	}
	f.Table, err = p.openTable(ctx, pool)
	return f, err
}

func (p randomPlan) openTable(ctx context.Context, pool *pgxpool.Pool) (pipeline.Table[item], error) {
	var members []staging.Member[item]
	for _, name := range p.tables {
		if name == "items" {
			t, err := staging.New(ctx, pool, name, staging.Config[item]{
				ID: "id", Lanes: p.lanes, Rules: []staging.Rule{{Code: "ruled", Where: "kind = 'rule'"}},
			})
			if err != nil || len(p.tables) == 1 {
				return t, err
			}
			members = append(members, staging.Into(t, func(v item) []item { return []item{v} }))
			continue
		}
		t, err := staging.New(ctx, pool, name, staging.Config[part]{ID: "item"})
		if err != nil {
			return nil, err
		}
		members = append(members, staging.Into(t, func(v item) []part {
			if name == "notes" {
				return []part{{v.ID, 7}}[:map[string]int{"three": 1}[v.Kind]]
			}
			return []part{{v.ID, map[string]int64{"part": -1}[v.Kind]}, {v.ID, 1}}
		}))
	}
	return staging.Group(members...), nil
}

// randomWant is what must be in the stores.
type randomWant struct {
	rows     map[string][]string // ids of each table
	rejects  []string
	records  [5]int64 // all, kept, duplicates, filtered, rejected
	rejected int64    // rows, by the tables
}

// expect adds n records with one id. It walks through the stages of the plan.
func (p randomPlan) expect(w *randomWant, id, kind string, n int) {
	for c := range n {
		w.records[0]++
		copied, rows, fate := false, 1, ""
		for _, s := range p.stages {
			switch {
			case kind == "":
				fate = "rejected"
			case s == "dedup" && c > 0 && p.copies != pipeline.CopiesJudged:
				fate = "duplicate"
			case s == "dedup":
				copied = c > 0
			case s == "filter" && kind == "filter" || s == "spread" && kind == "none":
				fate = "filtered"
			case s == "refuse" && kind == "refuse":
				fate = "rejected"
			case s == "spread" && kind == "three":
				rows = 3
			}
			if fate != "" {
				break
			}
		}
		if fate == "" && copied {
			fate = "duplicate"
		}
		switch fate {
		case "duplicate":
			w.records[2]++
		case "filtered":
			w.records[3]++
		case "rejected":
			w.records[4]++
			w.rejects = append(w.rejects, id)
		default:
			w.records[1]++
			p.expectRows(w, id, kind, rows)
		}
	}
}

func (p randomPlan) expectRows(w *randomWant, id, kind string, rows int) {
	bad := kind == "rule" || kind == "part" && slices.Contains(p.tables, "parts")
	for _, t := range p.tables {
		of := slices.Repeat([]string{id}, rows*map[string]int{"items": 1, "parts": 2, "notes": map[string]int{"three": 1}[kind]}[t])
		if bad {
			w.rejects, w.rejected = append(w.rejects, of...), w.rejected+int64(len(of))
		} else {
			w.rows[t] = append(w.rows[t], of...)
		}
	}
}

// Random chains, tables, lanes and shards. Two programs, each a worker and a promoter, die at
// random moments: their connections to both stores end and no new one succeeds. Others get no
// answer of Redis past their leases, or lose their connections to Postgres. Promoted batches are
// delivered again: see moments. In the end the stores, read without headrace, have each record
// where its kind belongs, once, and the books agree with them, by table and in sum. HEADRACE_PLANS
// sets the number of plans, HEADRACE_SEED the seed.
func TestRandomPipelines(t *testing.T) {
	t.Parallel()
	plans, seed := 4, rand.Uint64()
	if s := os.Getenv("HEADRACE_PLANS"); s != "" {
		plans, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("HEADRACE_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	for n := range plans {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, uint64(n)))
			p := drawPlan(rnd)
			t.Logf("seed %d: %+v", seed, p)
			newRandomRun(t, p, rnd).run()
		})
	}
}

type randomRun struct {
	t           *testing.T
	plan        randomPlan
	rnd         *rand.Rand
	name, pgURL string
	redis       rueidis.Client
	pool        *pgxpool.Pool
	flow        pipeline.Flow[item] // of no program that dies
	want        randomWant
	programs    [2]*mortalProgram
	dying       sync.WaitGroup
	moments     moments
}

// moments are those in which programs die so that a promoted batch is delivered again: one has
// staged it and dies before the hand-off, and the one that promotes it dies before it acknowledges.
type moments struct {
	mu     sync.Mutex
	rnd    *rand.Rand
	left   int             // deaths after staging
	staged map[string]bool // what dead programs have staged and not handed off
	again  int             // batches that were promoted and not acknowledged
}

// deadly is true if a program dies at an event.
func (d *moments) deadly(e pipeline.Event) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case e.Err != nil:
	case e.Op == pipeline.OpStage && d.left > 0 && d.rnd.IntN(4) == 0:
		d.left--
		d.staged[e.Batch] = true
		return true
	case e.Op == pipeline.OpPromote:
		before := d.again
		for _, id := range e.IDs {
			if d.staged[id] {
				delete(d.staged, id)
				d.again++
			}
		}
		return d.again > before
	}
	return false
}

func newRandomRun(t *testing.T, p randomPlan, rnd *rand.Rand) *randomRun {
	x := &randomRun{t: t, plan: p, rnd: rnd, name: servertest.Prefix(t), redis: servertest.Redis(t), pgURL: servertest.PostgresURL(t), want: randomWant{rows: map[string][]string{}}}
	x.moments = moments{rnd: rand.New(rand.NewPCG(rnd.Uint64(), 0)), left: 4, staged: map[string]bool{}}
	var err error
	if x.pool, err = pgxpool.New(t.Context(), x.pgURL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.pool.Close)
	if _, err := x.pool.Exec(t.Context(), `CREATE TABLE items (id text NOT NULL, kind text);
		CREATE TABLE parts (item text NOT NULL, no bigint CHECK (no >= 0)); CREATE TABLE notes (LIKE parts)`); err != nil {
		t.Fatal(err)
	}
	if x.flow, err = p.open(t.Context(), x.redis, x.pool, x.name); err != nil {
		t.Fatal(err)
	}
	return x
}

// mortalProgram is a worker and a promoter whose stores are behind proxies.
type mortalProgram struct {
	proxies [2]*proxy
	stop    context.CancelFunc
	dead    atomic.Bool
}

// die ends a program as kill -9 would, as far as the stores can tell.
func (m *mortalProgram) die() {
	m.dead.Store(true)
	for _, p := range m.proxies {
		_ = p.listener.Close()
		p.cut()
	}
	m.stop()
}

func (x *randomRun) start() *mortalProgram {
	x.t.Helper()
	m := &mortalProgram{}
	var redisURL, pgURL string
	redisURL, m.proxies[0] = proxiedURL(x.t, servertest.RedisURL(x.t))
	pgURL, m.proxies[1] = proxiedURL(x.t, x.pgURL)
	option, err := rueidis.ParseURL(redisURL)
	if err != nil {
		x.t.Fatal(err)
	}
	option.ConnWriteTimeout = time.Second
	redis, err := rueidis.NewClient(option)
	if err != nil {
		x.t.Fatal(err)
	}
	config, err := pgxpool.ParseConfig(pgURL)
	if err != nil {
		x.t.Fatal(err)
	}
	config.PingTimeout = 100 * time.Millisecond
	pool, err := pgxpool.NewWithConfig(x.t.Context(), config)
	if err != nil {
		x.t.Fatal(err)
	}
	flow, err := x.plan.open(x.t.Context(), redis, pool, x.name)
	if err != nil {
		x.t.Fatal(err)
	}
	observer := pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
		if x.moments.deadly(e) {
			m.die()
		}
	})
	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{
		Logger: quiet, Observer: observer, Records: x.plan.records, Linger: time.Millisecond, LeaseDuration: 300 * time.Millisecond, CallTimeout: 500 * time.Millisecond, ShutdownTimeout: time.Millisecond,
	})
	if err != nil {
		x.t.Fatal(err)
	}
	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{
		Logger: quiet, Observer: observer, PollInterval: 20 * time.Millisecond, ReconcileInterval: 50 * time.Millisecond, CallTimeout: 500 * time.Millisecond, ShutdownTimeout: time.Millisecond,
	})
	if err != nil {
		x.t.Fatal(err)
	}
	var ctx context.Context
	ctx, m.stop = context.WithCancel(context.Background())
	x.dying.Go(func() {
		if err := pipeline.Run(ctx, worker, promoter); err != nil {
			x.t.Errorf("a program ended: %v", err)
		}
		pool.Close()
		redis.Close()
	})
	return m
}

// harm does something to one of the programs.
func (x *randomRun) harm() {
	i := x.rnd.IntN(len(x.programs))
	switch m := x.programs[i]; x.rnd.IntN(4) {
	case 0:
		m.die()
		x.revive()
	case 1: // it lives, and its lease may end while it waits for an answer
		m.proxies[0].silence()
		m.proxies[0].heal() // for new connections
	case 2:
		m.proxies[1].cut()
	case 3:
		if _, err := x.pool.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL`); err != nil {
			x.t.Error(err)
		}
	}
}

// revive starts a program in the place of each dead one.
func (x *randomRun) revive() {
	for i, m := range x.programs {
		if m.dead.Load() {
			x.programs[i] = x.start()
		}
	}
}

func (x *randomRun) run() {
	for i := range x.programs {
		x.programs[i] = x.start()
	}
	defer func() {
		for _, m := range x.programs {
			m.die()
		}
		x.dying.Wait()
	}()
	push := x.flow.Queue.(interface {
		Push(ctx context.Context, payloads ...[]byte) error
		RequeueAll(ctx context.Context) (int, error)
	})
	for round := range 4 {
		var payloads [][]byte
		for i := range 30 {
			id, kind, n := fmt.Sprintf("r%d-%d", round, i), []string{"good", "three", "filter", "none", "refuse", "rule", "part", ""}[x.rnd.IntN(8)], 1+x.rnd.IntN(3)
			if x.plan.copies == pipeline.CopiesReleased && !slices.Contains([]string{"good", "three", "filter", "none"}, kind) {
				n = 1 // what becomes of their copies depends on the time
			}
			payloads = append(payloads, slices.Repeat([][]byte{[]byte(strings.TrimSpace(id + " " + kind))}, n)...)
			x.plan.expect(&x.want, id, kind, n)
		}
		x.rnd.Shuffle(len(payloads), func(i, j int) { payloads[i], payloads[j] = payloads[j], payloads[i] })
		if err := push.Push(context.Background(), payloads...); err != nil {
			x.t.Fatal(err)
		}
		leave := int64(x.rnd.IntN(len(payloads)))
		x.until(func(st queue.Stats) bool { return st.Acked+st.Dead >= x.want.records[0]-leave })
		x.harm()
	}
	// A lease that ran out is a crash to the queue, so a record may have been buried: it must end
	// like the others.
	x.until(func(st queue.Stats) bool {
		if _, err := push.RequeueAll(context.Background()); err != nil {
			x.t.Error(err)
		}
		return st.Acked == x.want.records[0]
	})
	x.check()
	x.t.Logf("%d batches were promoted and not acknowledged", x.moments.again)
}

// until waits for the books of Redis.
func (x *randomRun) until(f func(st queue.Stats) bool) {
	x.t.Helper()
	eventually(x.t, time.Minute, func() error {
		x.revive()
		st, err := x.flow.Queue.Stats(context.Background())
		if err == nil && !f(st) {
			err = fmt.Errorf("%d records: %+v", x.want.records[0], st)
		}
		return err
	})
}

func collect[T any](x *randomRun, sql string) []T {
	x.t.Helper()
	rows, err := x.pool.Query(context.Background(), sql)
	if err != nil {
		x.t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		x.t.Fatal(err)
	}
	return out
}

// check reads the stores, without headrace, and compares the books with what it has read.
func (x *randomRun) check() {
	x.t.Helper()
	books, err := x.flow.Books(context.Background())
	if err != nil {
		x.t.Fatal(err)
	}
	if err := books.Balanced(); err != nil {
		x.t.Error(err)
	}
	var rejects []string
	var rows int64
	for i, t := range x.plan.tables {
		ids := collect[string](x, map[string]string{"items": "SELECT id FROM items"}[t]+map[bool]string{true: "SELECT item FROM " + t}[t != "items"])
		same(x.t, t, x.want.rows[t], ids)
		if b := books.Tables[i]; b.Rows != int64(len(ids)) || b.Balanced() != nil || !strings.Contains(b.Table, t) {
			x.t.Errorf("the books of %s: %+v, want its %d rows", t, b, len(ids))
		}
		rows += int64(len(ids))
		rejects = append(rejects, collect[string](x, "SELECT split_part(coalesce(nullif(key, ''), payload), ' ', 1) FROM "+t+"_rejects")...)
		for _, side := range collect[string](x, "SELECT c.oid::regclass::text FROM pg_class c WHERE relkind = 'r' AND relname ~ '^"+t+"_(staging|registry|refused)'") {
			if n := collect[int64](x, "SELECT count(*) FROM "+side); n[0] != 0 {
				x.t.Errorf("%d rows are left in %s", n[0], side)
			}
		}
	}
	same(x.t, "rejects", x.want.rejects, rejects)
	if p := books.Postgres; [5]int64{p.Records, p.Kept, p.Duplicates, p.Filtered, p.Rejected} != x.want.records || p.Rows != rows || p.RejectedByRule != x.want.rejected || p.Conflicts != 0 {
		x.t.Errorf("the books: %+v, want %v records, %d rows, %d rejected", p, x.want.records, rows, x.want.rejected)
	}
	lead := x.plan.tables[0]
	if n := collect[int64](x, "SELECT coalesce(sum(records), 0)::bigint FROM "+lead+"_ledger WHERE kind = 'promoted'"); n[0] != x.want.records[0] {
		x.t.Errorf("the ledger has %d records, want %d", n[0], x.want.records[0])
	}
	for _, what := range []string{":ready", ":queue:b:*", ":queue:m:*", ":queue:d:*"} {
		keys, err := x.redis.Do(context.Background(), x.redis.B().Keys().Pattern("{"+x.name+"*"+what).Build()).AsStrSlice()
		if err != nil || len(keys) > 0 {
			x.t.Errorf("keys %v are left in Redis, %v", keys, err)
		}
	}
}
