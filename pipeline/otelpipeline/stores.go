package otelpipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Stores are what [Observer.Watch] reads. A nil field has no gauges. Each read costs the same
// whatever waits in the queue.
type Stores struct {
	// Name is the attribute queue of the gauges.
	Name string
	// Queue is a *queue.Queue, Table a *staging.Table, Dedup a *dedup.Deduplicator and Views a
	// *matview.Refresher.
	Queue interface {
		Stats(ctx context.Context) (queue.Stats, error)
	}
	Table interface {
		Stats(ctx context.Context) (staging.Stats, error)
	}
	Dedup interface {
		Stats(ctx context.Context) (dedup.Stats, error)
	}
	Views interface {
		Freshness(ctx context.Context) ([]matview.Freshness, error)
	}
	// DedupWindow is the length of Dedup's window. Zero: unknown.
	DedupWindow time.Duration
}

// reading is the state of the stores in one collection.
type reading struct {
	queue queue.Stats
	table staging.Stats
	dedup dedup.Stats
	views []matview.Freshness
	// up holds what was asked, and whether it answered.
	up map[string]bool
}

// Watch adds gauges of what the stores hold. It reads them at each collection, all at once, within
// Config.Timeout. Call stop before the stores are closed.
func (o *Observer) Watch(s Stores) (stop func() error, err error) {
	if s.Name == "" {
		return nil, fmt.Errorf("%w: Stores.Name is empty", ErrConfig)
	}
	g, err := o.storeGauges()
	if err != nil {
		return nil, fmt.Errorf("otelpipeline: could not create an instrument: %w", err)
	}
	w := &watch{o: o, stores: s, gauges: g, failed: make(map[string]bool)}
	r, err := o.meter.RegisterCallback(w.observe, g.all...)
	if err != nil {
		return nil, fmt.Errorf("otelpipeline: could not register the gauges: %w", err)
	}
	return r.Unregister, nil
}

type storeGauges struct {
	all []metric.Observable

	records, batches, paused, staged, ids, size, lost, populated, up metric.Int64ObservableGauge
	oldest, tableOldest, failing, window, viewAge                    metric.Float64ObservableGauge
}

func (o *Observer) storeGauges() (g storeGauges, err error) {
	count := func(name, unit, text string) metric.Int64ObservableGauge {
		i, failed := o.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(text))
		err = errors.Join(err, failed)
		g.all = append(g.all, i)
		return i
	}
	seconds := func(name, text string) metric.Float64ObservableGauge {
		i, failed := o.meter.Float64ObservableGauge(name, metric.WithUnit("s"), metric.WithDescription(text))
		err = errors.Join(err, failed)
		g.all = append(g.all, i)
		return i
	}
	g.records = count("headrace.queue.records", "{record}", "Records in the queue, by state.")
	g.batches = count("headrace.queue.batches", "{batch}", "Sealed batches in the queue, by state.")
	g.oldest = seconds("headrace.queue.oldest.age", "Age of the oldest record in flight.")
	g.paused = count("headrace.queue.paused", "", "1 while the queue is paused.")
	g.staged = count("headrace.table.staged", "", "What waits for promotion, by unit.")
	g.tableOldest = seconds("headrace.table.oldest.age", "Age of the oldest batch that waits for promotion.")
	g.failing = seconds("headrace.table.failing.age", "How long promotions have failed. 0: the last one succeeded.")
	g.ids = count("headrace.dedup.ids", "{id}", "Estimate of the ids in the dedup window.")
	g.size = count("headrace.dedup.size", "By", "Bytes of the dedup window's tables.")
	g.lost = count("headrace.dedup.lost", "{table}", "Tables of the dedup window that were deleted or evicted.")
	g.window = seconds("headrace.dedup.window", "Length of the dedup window.")
	g.viewAge = seconds("headrace.view.age", "Time since which a view may lack commits.")
	g.populated = count("headrace.view.populated", "", "1 if the view was ever refreshed.")
	g.up = count("headrace.store.up", "", "1 if the store could be read.")
	return g, err
}

// watch reads the stores for one registration.
type watch struct {
	o      *Observer
	stores Stores
	gauges storeGauges

	mu     sync.Mutex
	failed map[string]bool // last time
}

// read asks all stores at once.
func (w *watch) read(ctx context.Context) reading {
	ctx, cancel := context.WithTimeout(ctx, w.o.cfg.Timeout)
	defer cancel()
	r := reading{up: make(map[string]bool)}
	var mu sync.Mutex
	var wg sync.WaitGroup
	ask := func(store string, f func() error) {
		wg.Go(func() {
			err := f()
			mu.Lock()
			r.up[store] = err == nil
			mu.Unlock()
			w.note(store, err)
		})
	}
	s := w.stores
	if !redisx.IsNil(s.Queue) {
		ask("queue", func() (err error) { r.queue, err = s.Queue.Stats(ctx); return err })
	}
	if !redisx.IsNil(s.Table) {
		ask("table", func() (err error) { r.table, err = s.Table.Stats(ctx); return err })
	}
	if !redisx.IsNil(s.Dedup) {
		ask("dedup", func() (err error) { r.dedup, err = s.Dedup.Stats(ctx); return err })
	}
	if !redisx.IsNil(s.Views) {
		ask("views", func() (err error) { r.views, err = s.Views.Freshness(ctx); return err })
	}
	wg.Wait()
	return r
}

// note logs the beginning and the end of a failure.
func (w *watch) note(store string, err error) {
	w.mu.Lock()
	before := w.failed[store]
	w.failed[store] = err != nil
	w.mu.Unlock()
	log := w.o.cfg.Logger.With("queue", w.stores.Name, "store", store)
	switch {
	case err != nil && !before:
		log.Warn("otelpipeline: cannot read a store for its metrics", "error", err)
	case err == nil && before:
		log.Info("otelpipeline: can read the store for its metrics again")
	}
}

func (w *watch) observe(ctx context.Context, out metric.Observer) error {
	r, g := w.read(ctx), w.gauges
	name := attribute.String("queue", w.stores.Name)
	with := func(more ...attribute.KeyValue) metric.ObserveOption {
		return metric.WithAttributes(append(more, name)...)
	}
	counts := func(i metric.Int64Observable, key string, values map[string]int64) {
		for value, n := range values {
			out.ObserveInt64(i, n, with(attribute.String(key, value)))
		}
	}
	for store, up := range r.up {
		out.ObserveInt64(g.up, flag(up), with(attribute.String("store", store)))
	}
	if q := r.queue; r.up["queue"] {
		counts(g.records, "state", map[string]int64{"ready": q.Ready, "delayed": q.Delayed, "in_flight": q.InFlight - q.HandedOff, "handed_off": q.HandedOff, "dead": q.Dead})
		counts(g.batches, "state", map[string]int64{
			"leased": q.LeasedBatches, "waiting": q.WaitingBatches, "handed_off": q.HandedOffBatches, "broken": q.BrokenBatches,
		})
		out.ObserveFloat64(g.oldest, q.OldestAge.Seconds(), with())
		out.ObserveInt64(g.paused, flag(q.Paused), with())
	}
	if t := r.table; r.up["table"] {
		counts(g.staged, "unit", map[string]int64{"batches": t.Batches, "records": t.Records, "rows": t.Rows})
		out.ObserveFloat64(g.tableOldest, since(t.Oldest), with())
		out.ObserveFloat64(g.failing, since(t.FailingSince), with())
	}
	if d := r.dedup; r.up["dedup"] {
		out.ObserveInt64(g.ids, d.IDs, with())
		out.ObserveInt64(g.size, d.Bytes, with())
		out.ObserveInt64(g.lost, d.LostTables, with())
		if w.stores.DedupWindow > 0 {
			out.ObserveFloat64(g.window, w.stores.DedupWindow.Seconds(), with())
		}
	}
	for _, v := range r.views {
		view := attribute.String("view", v.View)
		out.ObserveInt64(g.populated, flag(v.Populated), with(view))
		if !v.AsOf.IsZero() {
			out.ObserveFloat64(g.viewAge, v.Age.Seconds(), with(view))
		}
	}
	return nil
}

func flag(on bool) int64 {
	if on {
		return 1
	}
	return 0
}

// since is the time since t in seconds, 0 if t is zero or lies ahead of this machine's clock.
func since(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(0, time.Since(t).Seconds())
}
