package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// A window of another name than the queue's would refuse every batch. The constructors refuse it
// and name both.
func TestWindowOfAnotherNameIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	other, err := dedup.New(t.Context(), r.redis, r.queue.Name()+"-ids", dedup.Config{})
	if err != nil {
		t.Fatal(err)
	}
	r.flow.Chain = pipeline.Then(pipeline.Decode(decodeItem), pipeline.Dedup(other, itemID))
	_, werr := pipeline.NewWorker(r.flow, pipeline.WorkerConfig{})
	_, perr := pipeline.NewPromoter(r.flow, pipeline.PromoterConfig{})
	for _, err := range []error{werr, perr} {
		if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), fmt.Sprintf("%q", other.Name())) || !strings.Contains(err.Error(), fmt.Sprintf("%q", r.queue.Name())) {
			t.Errorf("error %v, want ErrConfig that names %q and %q", err, other.Name(), r.queue.Name())
		}
	}
}

// liar is a window of another name that claims to have the queue's.
type liar struct {
	*dedup.Deduplicator
	name string
}

func (l liar) Name() string { return l.name }

// An error of configuration comes back for every batch. However often it does, no record pays for
// it, and all go through once a program with a right configuration runs.
func TestConfigurationErrorsNeverCount(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(r *rig){
		"a window of another name": func(r *rig) {
			other, err := dedup.New(r.t.Context(), r.redis, r.queue.Name()+"-ids", dedup.Config{})
			if err != nil {
				r.t.Fatal(err)
			}
			r.flow.Chain = pipeline.Then(pipeline.Decode(decodeItem), pipeline.Dedup(liar{other, r.queue.Name()}, itemID))
		},
		"a Fill with a wrong type": func(r *rig) {
			r.fill(func(v *item, row *staging.Row) { row.String(v.ID); row.Int(7) })
		},
		"a Fill with too few values": func(r *rig) {
			r.fill(func(v *item, row *staging.Row) { row.String(v.ID) })
		},
		"a stage with a bad configuration": func(r *rig) {
			r.flow.Chain = pipeline.Then(pipeline.Decode(decodeItem), pipeline.Map("lease", func(v item) (item, error) {
				_, err := r.queue.Lease(context.Background(), queue.LeaseOptions{Records: -1})
				return v, err
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{lease: queue.LeaseConfig{MaxFailures: 1, MaxCrashes: 1}})
			whole := r.flow
			records := numbered("a", 20, "good")
			r.push(records...)
			spoil(r)
			var failures atomic.Int64
			enough := make(chan struct{})
			log := newLines()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			wait := r.startWorker(ctx, pipeline.WorkerConfig{
				Logger: slog.New(log),
				Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
					if e.Err != nil && failures.Add(1) == 4 {
						close(enough)
					}
				}),
			})
			await(t, enough, "four failures")
			st, err := r.queue.Stats(t.Context())
			if err != nil || st.Dead != 0 || st.Splits != 0 {
				t.Errorf("after the failures: dead %d, splits %d, %v, want 0, 0", st.Dead, st.Splits, err)
			}
			if got := log.with("failed; retrying"); len(got) != 1 {
				t.Errorf("log %q, want one line about the failure", got)
			}
			cancel()
			wait()
			r.flow = whole
			stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
			defer stop()
			r.settled()
			stop()
			r.check(want{rows: idsOf(records)})
		})
	}
}

// fill gives the flow a table whose Fill is f.
func (r *rig) fill(f func(*item, *staging.Row)) {
	r.t.Helper()
	table, err := staging.New(r.t.Context(), r.pool, "items", staging.Config[item]{
		Columns: []staging.Column{{Name: "id"}, {Name: "kind"}}, Fill: f, ID: "id", IDOf: func(v *item) string { return v.ID },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.flow.Table = table
}

// await waits for a channel that is closed.
func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Fatalf("waited a minute in vain for %s", what)
	}
}

// A promoter that stops within RefreshInterval of its last promotion refreshes before it returns.
func TestStoppedPromoterLeavesFreshViews(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	var rows atomic.Int64 // that the last refresh has seen
	first := make(chan struct{})
	var refreshes atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	waitP := r.startPromoter(ctx, pipeline.PromoterConfig{
		RefreshInterval: time.Hour,
		Refresh: func(ctx context.Context) error {
			var n int64
			if err := r.pool.QueryRow(ctx, "SELECT count(*) FROM items").Scan(&n); err != nil {
				return err
			}
			rows.Store(n)
			if refreshes.Add(1) == 1 {
				close(first)
			}
			return nil
		},
	})
	await(t, first, "the refresh at the start")
	r.push(numbered("a", 500, "good")...)
	waitW := r.startWorker(ctx, pipeline.WorkerConfig{})
	r.settled()
	if n := refreshes.Load(); n != 1 {
		t.Errorf("%d refreshes within RefreshInterval, want 1", n)
	}
	cancel()
	waitW()
	waitP()
	if rows.Load() != 500 {
		t.Errorf("the last refresh has seen %d rows, want 500", rows.Load())
	}

	// Nothing was promoted since the refresh at the start: there is none at the end.
	refreshes.Store(1)
	started := make(chan struct{})
	ctx, cancel = context.WithCancel(context.Background())
	defer cancel()
	waitP = r.startPromoter(ctx, pipeline.PromoterConfig{RefreshInterval: time.Hour, Refresh: func(context.Context) error {
		if refreshes.Add(1) == 2 {
			close(started)
		}
		return nil
	}})
	await(t, started, "the refresh at the start")
	cancel()
	waitP()
	if n := refreshes.Load(); n != 2 {
		t.Errorf("%d refreshes, want only the one at the start", n-1)
	}
}

// A promoter reports once when it starts what makes its promotions slow, of a table and of a group.
func TestPromoterLogsAdvice(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	if _, err := r.pool.Exec(t.Context(), "ALTER TABLE items SET (autovacuum_enabled = off)"); err != nil {
		t.Fatal(err)
	}
	group := staging.Group(staging.Into(r.table, func(i item) []item { return []item{i} }))
	for name, table := range map[string]pipeline.Table[item]{"table": r.table, "group": group} {
		r.flow.Table = table
		log := newLines()
		ctx, cancel := context.WithCancel(context.Background())
		wait := r.startPromoter(ctx, pipeline.PromoterConfig{Logger: slog.New(log)})
		advice := func() int { return len(log.with("advice=autovacuum reason=\"autovacuum is off for items")) }
		eventually(t, time.Minute, func() error {
			if advice() == 0 {
				return fmt.Errorf("no advice: %q", log.all())
			}
			return nil
		})
		cancel()
		wait()
		if n := advice(); n != 1 {
			t.Errorf("%s: %d lines of advice, want one: %q", name, n, log.all())
		}
	}
}

// Postgres is away while batches wait: one line when it begins, one when it is over, whatever the
// number of batches, each line's error on one line.
func TestOutageLogsTwoLines(t *testing.T) {
	t.Parallel()
	pg := servertest.OwnPostgres(t)
	r := newRig(t, rigOptions{pool: pg.Pool(t)})
	records := numbered("a", 400, "good")
	r.push(records...)
	if err := pg.Kill(); err != nil {
		t.Fatal(err)
	}
	log := newLines()
	table := &countedTable{Table: r.table, enough: make(chan struct{})}
	r.flow.Table = table
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	wait := r.startWorker(ctx, pipeline.WorkerConfig{Logger: slog.New(log), Concurrency: 4})
	await(t, table.enough, "twelve failures")
	if got := log.all(); len(got) != 1 || !strings.Contains(got[0], `msg="pipeline: staging failed; retrying"`) || strings.Contains(got[0], `\n`) {
		t.Errorf("log of twelve failures: %q, want one line", got)
	}
	if err := pg.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Minute, r.allHanded)
	cancel()
	wait()
	got := log.all()
	if len(log.with("failed; retrying")) != 1 || len(log.with(`msg="pipeline: staging works again"`)) != 1 || !strings.Contains(got[len(got)-1], "after=") {
		t.Errorf("log %q, want one line at the beginning and one at the end", got)
	}
}

type countedTable struct {
	*staging.Table[item]
	n      atomic.Int64
	enough chan struct{} // closed after twelve failures
}

func (c *countedTable) Stage(ctx context.Context, l staging.Load[item]) (staging.Outcome, error) {
	o, err := c.Table.Stage(ctx, l)
	if err != nil && c.n.Add(1) == 12 {
		close(c.enough)
	}
	return o, err
}
