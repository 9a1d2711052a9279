package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/pgschema"
	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/window"
)

// Lookup is a lookup table. *[lookup.Table] implements it. One with a method
// Refresh(ctx) (lookup.RefreshResult, error) can be refreshed.
type Lookup interface {
	Name() string
	Stats(ctx context.Context) (lookup.Stats, error)
}

// Window is a store of windows. *[window.Store] and *[window.Reader] implement it.
type Window interface {
	Name() string
	Stats(ctx context.Context) (window.Stats, error)
	Windows(ctx context.Context, phase window.Phase, cursor string, n int) ([]window.Summary, string, error)
	Late(ctx context.Context, cursor string, n int) ([]window.LateEvent, string, error)
}

// Views is a set of materialized views. *[matview.Refresher] implements it. One with a method
// Refresh(ctx, names…) (matview.RefreshReport, error) can be refreshed.
type Views interface {
	Freshness(ctx context.Context) ([]matview.Freshness, error)
}

// Gate is a gate before the producers. *[backpressure.Gate] implements it.
type Gate interface {
	Stats(ctx context.Context) (backpressure.Stats, error)
}

// Pipeline is what the console shows of one pipeline. [Of] makes one of a flow, [Open] of names.
// The parts that may be nil are left out of the pages.
type Pipeline struct {
	// Name is part of the addresses of the pages. Default: the name of the queue.
	Name string
	// Queue is the queue.
	Queue *queue.Queue
	// Table is the name of the table: "orders", "shop.orders", or quoted.
	Table string
	// Redis and Postgres are the stores. The console never closes them.
	Redis    rueidis.Client
	Postgres *pgxpool.Pool

	// Gate is the gate before the producers, and High its upper watermark in records, for the chart.
	Gate Gate
	High int64
	// Lookups, Windows and Views are used by the pipeline and not part of the flow.
	Lookups []Lookup
	Windows []Window
	Views   Views

	// Promote promotes what is staged and returns the number of batches; Reconcile compares the
	// batches that were handed off with the table. [Of] sets both.
	Promote   func(ctx context.Context) (int, error)
	Reconcile func(ctx context.Context) error
	// Find looks for a record by its id. [Of] sets the flow's own, which computes the ids of payloads.
	// Nil: a payload has the id if its text holds it as a word.
	Find func(ctx context.Context, id string) (pipeline.FindResult, error)
}

// Of makes a Pipeline of a flow on its two stores. The flow's queue must be a *[queue.Queue], and
// its table must have a method Name, as *staging.Table has: the console reads the ledger and the
// rejects by that name. Gate comes from the flow; set High, Lookups, Windows and Views where there
// are some.
func Of[T any](flow pipeline.Flow[T], redis rueidis.Client, postgres *pgxpool.Pool) Pipeline {
	p := Pipeline{Redis: redis, Postgres: postgres, Find: flow.Find}
	p.Queue, _ = flow.Queue.(*queue.Queue)
	if named, ok := flow.Table.(interface{ Name() string }); ok {
		p.Table = named.Name()
	}
	p.Gate, _ = flow.Gate.(Gate)
	if promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{Name: "console"}); err == nil {
		p.Promote, p.Reconcile = promoter.Promote, promoter.Reconcile
	}
	return p
}

// Names are the names by which [Open] finds a pipeline.
type Names struct {
	Queue string
	// Table is the name of the table: "orders", "shop.orders", or quoted.
	Table string
	// Views is the name of the set of views; "": there is none.
	Views string
	// Lookups are the names of lookup tables. They are shown and not refreshed: only a program that
	// has their Load can do that.
	Lookups []string
	// Windows are the names of stores of windows.
	Windows []string
}

// Open makes a Pipeline of names: a program that operates pipelines needs no row type. It creates
// nothing. The table, the views and the windows may not exist yet.
func Open(ctx context.Context, redis rueidis.Client, postgres *pgxpool.Pool, names Names) (Pipeline, error) {
	if redisx.IsNil(redis) || postgres == nil {
		return Pipeline{}, fmt.Errorf("%w: a store of Open is nil, must be a client and a pool", ErrConfig)
	}
	q, err := queue.New(ctx, redis, names.Queue, queue.Config{Eviction: queue.EvictionIgnore})
	if err != nil {
		return Pipeline{}, err
	}
	p := Pipeline{Queue: q, Table: names.Table, Redis: redis, Postgres: postgres}
	if names.Views != "" {
		if _, err := pgschema.ParseName(names.Views); err != nil {
			return Pipeline{}, fmt.Errorf("%w: Names.Views is %q, %w", ErrConfig, names.Views, err)
		}
		p.Views = namedViews{postgres, names.Views}
	}
	for _, name := range names.Lookups {
		t, err := lookup.New(ctx, redis, name, lookup.Config[string, json.RawMessage]{})
		if err != nil {
			return Pipeline{}, err
		}
		p.Lookups = append(p.Lookups, namedLookup{t})
	}
	for _, name := range names.Windows {
		w := newNamedWindow(redis, name)
		if _, err := w.open(ctx); err != nil && !errors.Is(err, window.ErrMissing) {
			return Pipeline{}, err
		}
		p.Windows = append(p.Windows, w)
	}
	return p, nil
}

// namedLookup is a lookup table by its name. It cannot be refreshed.
type namedLookup struct {
	table *lookup.Table[string, json.RawMessage]
}

func (l namedLookup) Name() string { return l.table.Name() }

// Stats describes the current version. A table that was never loaded has none.
func (l namedLookup) Stats(ctx context.Context) (lookup.Stats, error) {
	s, err := l.table.Stats(ctx)
	if errors.Is(err, lookup.ErrNotLoaded) {
		return lookup.Stats{}, nil
	}
	return s, err
}

// validate returns the pipeline with its defaults.
func (p Pipeline) validate(field string) (Pipeline, error) {
	switch {
	case p.Queue == nil:
		return p, fmt.Errorf("%w: %s.Queue is nil, must be a *queue.Queue", ErrConfig, field)
	case redisx.IsNil(p.Redis):
		return p, fmt.Errorf("%w: %s.Redis is nil, must be the client of the queue", ErrConfig, field)
	case p.Postgres == nil:
		return p, fmt.Errorf("%w: %s.Postgres is nil, must be the pool of the table", ErrConfig, field)
	case p.High < 0:
		return p, fmt.Errorf("%w: %s.High is %d, must be 0 or more", ErrConfig, field, p.High)
	}
	if redisx.IsNil(p.Gate) {
		p.Gate = nil
	}
	if redisx.IsNil(p.Views) {
		p.Views = nil
	}
	if p.Name == "" {
		p.Name = p.Queue.Name()
	}
	if _, err := pgschema.ParseName(p.Table); err != nil {
		return p, fmt.Errorf("%w: %s.Table is %q, %w", ErrConfig, field, p.Table, err)
	}
	p.Lookups = slices.DeleteFunc(slices.Clone(p.Lookups), func(l Lookup) bool { return redisx.IsNil(l) })
	p.Windows = slices.DeleteFunc(slices.Clone(p.Windows), func(w Window) bool { return redisx.IsNil(w) })
	return p, nil
}
