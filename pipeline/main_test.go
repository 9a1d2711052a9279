package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
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

func TestMain(m *testing.M) {
	if os.Getenv(childPoint) != "" {
		child() // this process is a worker or promoter of a crash test, and will be killed
	}
	servertest.Main(m)
}

// item is the record of these tests: "id kind", where kind decides its fate.
type item struct {
	ID   string `db:"id"`
	Kind string `db:"kind"`
}

func decodeItem(p []byte) (item, error) {
	id, kind, ok := strings.Cut(string(p), " ")
	if !ok {
		return item{}, pipeline.Reject("malformed", "no kind in %q", p)
	}
	return item{id, kind}, nil
}

func itemID(v item) string { return v.ID }

func refuse(v item) (item, error) {
	if v.Kind == "refuse" {
		return v, pipeline.Reject("refused", "as asked")
	}
	return v, nil
}

// rig is one pipeline of its own on real servers. The target has no unique key: whatever is
// promoted twice shows.
type rig struct {
	t      *testing.T
	redis  rueidis.Client
	pool   *pgxpool.Pool
	queue  *queue.Queue
	window *dedup.Deduplicator
	table  *staging.Table[item]
	flow   pipeline.Flow[item]
	pushed []string
}

type rigOptions struct {
	redis  rueidis.Client
	pool   *pgxpool.Pool
	name   string
	lease  queue.LeaseConfig
	stages []pipeline.Stage[item, item]
	lanes  int // of the table
}

func newRig(t *testing.T, o rigOptions) *rig {
	t.Helper()
	ctx := t.Context()
	if o.redis == nil {
		o.redis = servertest.Redis(t)
	}
	if o.pool == nil {
		o.pool = servertest.Postgres(t)
	}
	if o.name == "" {
		o.name = servertest.Prefix(t)
	}
	r, err := openRig(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	r.t = t
	return r
}

func openRig(ctx context.Context, o rigOptions) (*rig, error) {
	r := &rig{redis: o.redis, pool: o.pool}
	var err error
	if o.lease.Backoff == 0 {
		o.lease.Backoff = 10 * time.Millisecond
	}
	if o.lease.PollInterval == 0 {
		o.lease.PollInterval = 20 * time.Millisecond
	}
	if r.queue, err = queue.New(ctx, r.redis, o.name, queue.Config{Lease: o.lease}); err != nil {
		return nil, err
	}
	if r.window, err = dedup.New(ctx, r.redis, o.name, dedup.Config{}); err != nil {
		return nil, err
	}
	if r.table, err = staging.New(ctx, r.pool, "items", staging.Config[item]{
		Create: true, ID: "id", Lanes: o.lanes,
		Rules: []staging.Rule{{Code: "ruled", Reason: "a rule rejects it", Where: "kind = 'rule'"}},
	}); err != nil {
		return nil, err
	}
	signals, err := pipeline.NewSignals(r.redis, o.name)
	if err != nil {
		return nil, err
	}
	chain := pipeline.Then4(
		pipeline.Decode(decodeItem),
		pipeline.Dedup(r.window, itemID),
		pipeline.Filter("wanted", func(v item) bool { return v.Kind != "filter" }),
		pipeline.Map("refuse", refuse),
	)
	for _, s := range o.stages {
		chain = pipeline.Then(chain, s)
	}
	r.flow = pipeline.Flow[item]{Queue: r.queue, Chain: chain, Table: r.table, Signals: signals}
	return r, nil
}

func (r *rig) push(records ...string) {
	r.t.Helper()
	var payloads [][]byte
	for _, p := range records {
		payloads = append(payloads, []byte(p))
	}
	if err := r.queue.Push(r.t.Context(), payloads...); err != nil {
		r.t.Fatal(err)
	}
	r.pushed = append(r.pushed, records...)
}

// numbered makes n records of a kind with ids prefix0, prefix1 …
func numbered(prefix string, n int, kind string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s%d %s", prefix, i, kind)
	}
	return out
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// start runs a worker and a promoter until the returned function is called; that fails the test if
// one does not end well.
func (r *rig) start(w pipeline.WorkerConfig, p pipeline.PromoterConfig) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stopW, stopP := r.startWorker(ctx, w), r.startPromoter(ctx, p)
	return func() { cancel(); stopW(); stopP() }
}

func (r *rig) startWorker(ctx context.Context, cfg pipeline.WorkerConfig) (wait func()) {
	r.t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	if cfg.Records == 0 {
		cfg.Records = 100
	}
	if cfg.Linger == 0 {
		cfg.Linger = time.Millisecond
	}
	worker, err := pipeline.NewWorker(r.flow, cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return background(r.t, func() error { return worker.Run(ctx) })
}

func (r *rig) startPromoter(ctx context.Context, cfg pipeline.PromoterConfig) (wait func()) {
	r.t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	if cfg.PollInterval == 0 {
		cfg.PollInterval = 50 * time.Millisecond
	}
	if cfg.ReconcileInterval == 0 {
		cfg.ReconcileInterval = 200 * time.Millisecond
	}
	promoter, err := pipeline.NewPromoter(r.flow, cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return background(r.t, func() error { return promoter.Run(ctx) })
}

func background(t *testing.T, f func() error) (wait func()) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	var once sync.Once
	return func() {
		once.Do(func() {
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Run returned %v", err)
				}
			case <-time.After(30 * time.Second):
				t.Error("Run has not returned 30 s after its context ended")
			}
		})
	}
}

// settled waits until everything pushed is acknowledged or dead.
func (r *rig) settled() {
	r.t.Helper()
	eventually(r.t, 60*time.Second, func() error {
		st, err := r.queue.Stats(context.Background())
		if err != nil {
			return err
		}
		if st.Acked+st.Dead != int64(len(r.pushed)) {
			return fmt.Errorf("%d pushed, but acked %d, dead %d: %+v", len(r.pushed), st.Acked, st.Dead, st)
		}
		return nil
	})
}

// eventually calls f until it returns nil. It pauses in between: there is no signal for everything
// that a test may wait for.
func eventually(t *testing.T, limit time.Duration, f func() error) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("after %v: %v", limit, err)
		case <-tick.C:
		}
	}
}

// want is what must have become of the records, by id: how many rows, rejects and dead records
// there are of it.
type want struct{ rows, rejects, dead []string }

type stagingRow = staging.Row

// check compares the final state with what is wanted, exactly, and the books.
func (r *rig) check(w want) {
	r.t.Helper()
	ctx := context.Background()
	rows, err := r.pool.Query(ctx, "SELECT id FROM items")
	if err != nil {
		r.t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		r.t.Fatal(err)
	}
	same(r.t, "promoted", w.rows, ids)
	rows, err = r.pool.Query(ctx, "SELECT coalesce(nullif(key, ''), payload) FROM items_rejects")
	if err != nil {
		r.t.Fatal(err)
	}
	if ids, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		r.t.Fatal(err)
	}
	same(r.t, "rejected", w.rejects, ids)
	ids = nil
	for cursor := ""; ; {
		dead, next, err := r.queue.DeadLetters(ctx, cursor, 100)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, d := range dead {
			id, _, _ := strings.Cut(string(d.Payload), " ")
			ids = append(ids, id)
			if d.Reason == "" {
				r.t.Errorf("the dead record %q has no reason", d.Payload)
			}
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	same(r.t, "dead", w.dead, ids)

	books, err := r.flow.Books(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := books.Balanced(); err != nil {
		r.t.Error(err)
	}
	if books.Redis.Taken != int64(len(r.pushed)) {
		r.t.Errorf("%d pushed but %d taken", len(r.pushed), books.Redis.Taken)
	}
	if !books.Quiet {
		r.t.Errorf("the books are not quiet: %+v", books.Redis)
	}
}

func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	counts := map[string]int{}
	for _, id := range want {
		counts[id]--
	}
	for _, id := range got {
		counts[id]++
	}
	var off []string
	for id, n := range counts {
		if n != 0 {
			off = append(off, fmt.Sprintf("%s %+d", id, n))
		}
	}
	if len(off) > 0 {
		slices.Sort(off)
		t.Errorf("%s: %d, want %d; off: %s", what, len(got), len(want), strings.Join(off[:min(len(off), 10)], ", "))
	}
}

func idsOf(records []string) []string {
	out := make([]string, len(records))
	for i, r := range records {
		out[i], _, _ = strings.Cut(r, " ")
	}
	return out
}

var errLostReply = errors.New("the reply was lost")
