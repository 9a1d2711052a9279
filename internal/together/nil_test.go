package together_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/console"
	"github.com/headrace/headrace/pipeline/otelpipeline"
	"github.com/headrace/headrace/pipeline/pipelinetest"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
	"github.com/headrace/headrace/window"
)

// Clients and sources of a caller's own: interfaces are nil, or hold a nil pointer.
type (
	ownClient struct{ rueidis.Client }
	ownReader struct{ io.Reader }
)

// An argument that is nil is ErrConfig, and no panic, in every package.
func TestNilArguments(t *testing.T) {
	t.Parallel()
	ctx, quiet := t.Context(), slog.New(slog.DiscardHandler)
	type call = func() error
	errs := map[error]map[string]call{}
	add := func(want error, name string, f call) {
		if errs[want] == nil {
			errs[want] = map[string]call{}
		}
		errs[want][name] = f
	}

	for kind, c := range map[string]rueidis.Client{"nil": nil, "a nil pointer": (*ownClient)(nil)} {
		add(queue.ErrConfig, "New of "+kind, func() error { _, err := queue.New(ctx, c, "n", queue.Config{}); return err })
		add(queue.ErrConfig, "NewShards of "+kind, func() error { _, err := queue.NewShards(ctx, c, "n", 2, nil, queue.Config{}); return err })
		add(dedup.ErrConfig, "New of "+kind, func() error { _, err := dedup.New(ctx, c, "n", dedup.Config{}); return err })
		add(lookup.ErrConfig, "New of "+kind, func() error { _, err := lookup.New(ctx, c, "n", lookup.Config[string, int]{}); return err })
		add(lookup.ErrConfig, "NewRemote of "+kind, func() error {
			_, err := lookup.NewRemote(ctx, c, "n", lookup.RemoteConfig[string, int]{})
			return err
		})
		add(window.ErrConfig, "New of "+kind, func() error { _, err := window.New(ctx, c, "n", window.Config{Size: time.Second}); return err })
		add(window.ErrConfig, "Open of "+kind, func() error { _, err := window.Open(ctx, c, "n"); return err })
		add(backpressure.ErrConfig, "New of "+kind, func() error {
			_, err := backpressure.New(ctx, c, "n", backpressure.Config{Records: []backpressure.Source{{List: "{n}:ready"}}})
			return err
		})
		add(pipeline.ErrConfig, "NewSignals of "+kind, func() error { _, err := pipeline.NewSignals(c, "n"); return err })
		add(pipeline.ErrConfig, "NewShards of "+kind, func() error { _, err := pipeline.NewShards(ctx, c, "n", 2, pipeline.ShardsConfig{}); return err })
		add(console.ErrConfig, "CheckRedis of "+kind, func() error { _, err := console.CheckRedis(ctx, c); return err })
		add(console.ErrConfig, "Open of "+kind, func() error { _, err := console.Open(ctx, c, new(pgxpool.Pool), console.Names{}); return err })
	}

	anyClient := &ownClient{} // is not used
	for kind, sources := range map[string][]backpressure.Source{
		"nil": backpressure.SourcesOf(nil), "a nil pointer": backpressure.SourcesOf((*queue.Queue)(nil)),
	} {
		add(backpressure.ErrConfig, "New with the sources of "+kind, func() error {
			_, err := backpressure.New(ctx, anyClient, "n", backpressure.Config{Records: sources})
			return err
		})
	}
	fail := func() { t.Error("a function was called") }
	for kind, db := range map[string]lookup.Querier{"nil": nil, "a nil pointer": (*pgxpool.Pool)(nil), "a nil transaction": (*pgxpool.Tx)(nil)} {
		add(lookup.ErrConfig, "FromQuery of "+kind, func() error {
			return lookup.FromQuery[string, int](db, "SELECT 'a', 1")(ctx, func(string, int) error { fail(); return nil })
		})
		add(lookup.ErrConfig, "FetchQuery of "+kind, func() error {
			_, err := lookup.FetchQuery[string, int](db, "SELECT 'a', 1")(ctx, []string{"a"})
			return err
		})
	}
	add(lookup.ErrConfig, "FromMap of nil", func() error {
		return lookup.FromMap[string, int](nil)(ctx, func(string, int) error { fail(); return nil })
	})

	type row struct {
		ID int64 `db:"id"`
	}
	add(staging.ErrConfig, "New", func() error { _, err := staging.New(ctx, nil, "n", staging.Config[row]{}); return err })
	add(staging.ErrConfig, "SQL", func() error { _, err := staging.SQL(ctx, nil, "n", staging.Config[row]{}); return err })
	add(staging.ErrConfig, "Grants", func() error { _, err := staging.Grants(ctx, nil, "n", staging.Config[row]{}, "r"); return err })
	add(staging.ErrConfig, "OpenLedger", func() error { _, err := staging.OpenLedger(ctx, nil, "n"); return err })
	add(staging.ErrConfig, "NewFinder", func() error { _, err := staging.NewFinder(ctx, nil, "n", "id"); return err })
	add(staging.ErrConfig, "RetireLanes", func() error { _, err := staging.RetireLanes(ctx, nil, "n", 1); return err })
	add(staging.ErrConfig, "DiscardStaged", func() error { _, err := staging.DiscardStaged(ctx, nil, "n"); return err })
	add(staging.ErrConfig, "StageTx", func() error { _, err := new(staging.Table[row]).StageTx(ctx, nil, staging.Load[row]{}); return err })
	add(staging.ErrConfig, "StageTx of a nil pointer", func() error {
		_, err := new(staging.Table[row]).StageTx(ctx, (*pgxpool.Tx)(nil), staging.Load[row]{})
		return err
	})
	add(staging.ErrConfig, "Rewrite", func() error {
		_, err := staging.Rewrite[row, row]{Name: "n", Source: "s", Key: "id", Transform: func(context.Context, []row) ([]row, error) { return nil, nil }}.Run(ctx, nil)
		return err
	})
	add(staging.ErrConfig, "Group", func() error { return staging.Group(staging.Into[row, row](nil, nil)).Check(ctx) })

	add(matview.ErrConfig, "New", func() error {
		_, err := matview.New(ctx, nil, "n", matview.Config{Views: []matview.View{{Name: "v", SQL: "SELECT 1 AS a", UniqueIndex: []string{"a"}}}})
		return err
	})
	add(matview.ErrConfig, "Open", func() error { _, err := matview.Open(ctx, nil, "n", matview.Config{}); return err })
	r := matview.Rollup{
		Table: "r", From: "f", GroupBy: []matview.Column{{Name: "g", Type: "text"}},
		Measures: []matview.Measure{{Name: "n", Aggregate: matview.AggregateCount}},
	}
	for kind, db := range map[string]matview.DB{"nil": nil, "a nil pool": (*pgxpool.Pool)(nil), "a nil connection": (*pgx.Conn)(nil)} {
		add(matview.ErrConfig, "Rollup.Create of "+kind, func() error { return r.Create(ctx, db) })
		add(matview.ErrConfig, "Rollup.Verify of "+kind, func() error { return r.Verify(ctx, db) })
		add(matview.ErrConfig, "Rollup.Rebuild of "+kind, func() error { _, err := r.Rebuild(ctx, db); return err })
		add(matview.ErrConfig, "Rollup.Check of "+kind, func() error { _, err := r.Check(ctx, db, 0); return err })
	}

	memory := pipelinetest.NewQueue("n")
	chain := pipeline.Decode(func(p []byte) (string, error) { return string(p), nil })
	flows := map[string]pipeline.Flow[string]{
		"queue":                  {Chain: chain, Table: pipelinetest.NewTable[string]()},
		"queue, a nil pointer":   {Queue: (*queue.Queue)(nil), Chain: chain, Table: pipelinetest.NewTable[string]()},
		"table":                  {Queue: memory, Chain: chain},
		"table, a nil pointer":   {Queue: memory, Chain: chain, Table: (*staging.Table[string])(nil)},
		"decoder":                {Queue: memory, Chain: pipeline.Decode[string](nil), Table: pipelinetest.NewTable[string]()},
		"window, a nil pointer":  {Queue: memory, Chain: pipeline.Then(chain, pipeline.Dedup((*dedup.Deduplicator)(nil), strings.ToUpper)), Table: pipelinetest.NewTable[string]()},
		"id of the dedup stage":  {Queue: memory, Chain: pipeline.Then(chain, pipeline.Dedup[string](pipelinetest.NewWindow(memory), nil)), Table: pipelinetest.NewTable[string]()},
		"function of a map":      {Queue: memory, Chain: pipeline.Then(chain, pipeline.Map[string, string]("m", nil)), Table: pipelinetest.NewTable[string]()},
		"snapshot of the lookup": {Queue: memory, Chain: pipeline.Then(chain, pipeline.Lookup[int, string, string]("l", nil, nil)), Table: pipelinetest.NewTable[string]()},
	}
	for what, flow := range flows {
		add(pipeline.ErrConfig, "NewWorker: "+what, func() error { _, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{}); return err })
		add(pipeline.ErrConfig, "NewPromoter: "+what, func() error { _, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{}); return err })
		add(pipeline.ErrConfig, "Flow.Find: "+what, func() error { _, err := flow.Find(ctx, "x"); return err })
	}
	push := func(context.Context, ...[]byte) error { fail(); return nil }
	add(pipeline.ErrConfig, "Feed: source", func() error { _, err := pipeline.Feed(ctx, nil, push, pipeline.FeedConfig{}); return err })
	add(pipeline.ErrConfig, "Feed: push", func() error {
		_, err := pipeline.Feed(ctx, pipeline.Lines(strings.NewReader("a"), 0), nil, pipeline.FeedConfig{})
		return err
	})
	for kind, reader := range map[string]io.Reader{"nil": nil, "a nil pointer": (*ownReader)(nil)} {
		add(pipeline.ErrConfig, "Lines of "+kind, func() error {
			_, err := pipeline.Feed(ctx, pipeline.Lines(reader, 0), push, pipeline.FeedConfig{})
			return err
		})
		add(pipeline.ErrConfig, "CSV of "+kind, func() error {
			_, err := pipeline.Feed(ctx, pipeline.CSV(reader), push, pipeline.FeedConfig{})
			return err
		})
	}
	add(pipeline.ErrConfig, "Await", func() error { return pipeline.Await(ctx, quiet, nil) })
	add(pipeline.ErrConfig, "Run", func() error { return pipeline.Run(ctx, nil) })
	add(pipeline.ErrConfig, "Run of a nil pointer", func() error { return pipeline.Run(ctx, (*pipeline.Relay)(nil)) })
	add(pipeline.ErrConfig, "Every", func() error { return pipeline.Every(time.Second, "e", quiet, nil).Run(ctx) })
	add(pipeline.ErrConfig, "NewRelay", func() error {
		_, err := pipeline.NewRelay((*queue.Queue)(nil), "n", pipeline.RelayConfig{DB: new(pgxpool.Pool), SQL: "SELECT"})
		return err
	})
	add(pipeline.ErrConfig, "NewRelay: DB", func() error {
		_, err := pipeline.NewRelay(new(queue.Queue), "n", pipeline.RelayConfig{DB: (*pgxpool.Pool)(nil), SQL: "SELECT"})
		return err
	})
	add(console.ErrConfig, "CheckPostgres", func() error { _, err := console.CheckPostgres(ctx, nil); return err })
	add(console.ErrConfig, "Open: pool", func() error { _, err := console.Open(ctx, anyClient, nil, console.Names{}); return err })
	add(console.ErrConfig, "New", func() error {
		_, err := console.New(console.Config{Pipelines: []console.Pipeline{console.Of(pipeline.Flow[string]{}, nil, nil)}})
		return err
	})

	q, err := queue.New(ctx, servertest.Miniredis(t), servertest.Prefix(t), queue.Config{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	for name, on := range map[string]pipeline.Queue{"queue": q, "shards": new(queue.Shards), "pipelinetest": memory} {
		add(queue.ErrConfig, name+": Extend", func() error { return on.Extend(ctx, nil, time.Minute) })
		add(queue.ErrConfig, name+": ExtendWaiting", func() error { return on.ExtendWaiting(ctx, nil, time.Minute) })
		add(queue.ErrConfig, name+": Handoff", func() error { return on.Handoff(ctx, nil) })
		add(queue.ErrConfig, name+": Release", func() error { return on.Release(ctx, nil, queue.ReleaseOptions{}) })
		add(queue.ErrConfig, name+": Settle", func() error { return on.Settle(ctx, nil, queue.Resolution{}) })
		add(queue.ErrConfig, name+": Settle promoted", func() error { return on.Settle(ctx, nil, queue.Resolution{Promoted: true}) })
	}
	add(queue.ErrConfig, "Reconcile", func() error { _, err := q.Reconcile(ctx, nil, nil); return err })
	add(queue.ErrConfig, "Scan", func() error { _, err := q.Scan(ctx, queue.ScanOptions{}, nil); return err })
	add(window.ErrConfig, "Run", func() error { return new(window.Store).Run(ctx, nil) })

	for want, calls := range errs {
		prefix := want.Error() + ": "
		for name, f := range calls {
			if err := quietly(f); !errors.Is(err, want) || !strings.HasPrefix(err.Error(), prefix) || len(err.Error()) == len(prefix) {
				t.Errorf("%s: got %v, want %v with the argument", name, err, want)
			}
		}
	}

	// What returns no error does nothing.
	for name, f := range map[string]call{
		"TunePool":         func() error { pipeline.TunePool(nil); pipeline.TunePool(&pgxpool.Config{}); return nil },
		"otelpipeline.New": func() error { _, err := otelpipeline.New(otelpipeline.Config{}); return err },
		"Shards.Of":        func() error { new(queue.Shards).Of(nil); return nil },
		"Find in nothing":  func() error { _, err := pipeline.Find(ctx, pipeline.FindSources{}, "x"); return err },
		"Find in a pointer": func() error {
			_, err := pipeline.Find(ctx, pipeline.FindSources{Queue: (*queue.Queue)(nil), Window: (*dedup.Deduplicator)(nil), Table: (*staging.Finder)(nil)}, "x")
			return err
		},
	} {
		if err := quietly(f); err != nil {
			t.Errorf("%s: got %v, want nil", name, err)
		}
	}
}

// quietly turns a panic into an error.
func quietly(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}
