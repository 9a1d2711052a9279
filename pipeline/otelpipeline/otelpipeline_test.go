package otelpipeline_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/otelpipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

type reading struct {
	Sensor string `db:"sensor"`
}

// telemetry is the observer of one program, with what it has recorded.
type telemetry struct {
	*otelpipeline.Observer
	spans  *tracetest.InMemoryExporter
	reader *metric.ManualReader
}

func program(t *testing.T, cfg otelpipeline.Config) telemetry {
	t.Helper()
	o := telemetry{spans: tracetest.NewInMemoryExporter(), reader: metric.NewManualReader()}
	cfg.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSyncer(o.spans))
	cfg.MeterProvider = metric.NewMeterProvider(metric.WithReader(o.reader))
	var err error
	if o.Observer, err = otelpipeline.New(cfg); err != nil {
		t.Fatal(err)
	}
	return o
}

// values are the data points by "name attribute=value …", and the counts of histograms.
func (o telemetry) values(t *testing.T) map[string]float64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := o.reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]float64)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			add := func(a attribute.Set, v float64) {
				name := m.Name
				for _, kv := range a.ToSlice() {
					if kv.Key != "queue" && kv.Key != "program" {
						name += " " + string(kv.Key) + "=" + kv.Value.String()
					}
				}
				out[name] += v
			}
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					add(p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[int64]:
				for _, p := range d.DataPoints {
					add(p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[float64]:
				for _, p := range d.DataPoints {
					add(p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					add(p.Attributes, float64(p.Count))
				}
			default:
				t.Errorf("%s is a %T", m.Name, m.Data)
			}
		}
	}
	return out
}

func (o telemetry) shows(t *testing.T, want map[string]float64) {
	t.Helper()
	got := o.values(t)
	for name, v := range want {
		if g, ok := got[name]; !ok || g != v {
			t.Errorf("%s: got %v (present: %v), want %v", name, g, ok, v)
		}
	}
	if t.Failed() {
		for _, name := range slices.Sorted(maps.Keys(got)) {
			t.Log(name, got[name])
		}
	}
}

// A worker and a promoter in programs of their own: the spans of each batch are one trace, and the
// metrics add up to what was pushed.
func TestTracesAndMetricsOfAPipeline(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	redis, pool, name := servertest.Redis(t), servertest.Postgres(t), servertest.Prefix(t)
	q, err := queue.New(ctx, redis, name, queue.Config{Eviction: queue.EvictionIgnore})
	if err != nil {
		t.Fatal(err)
	}
	seen, err := dedup.New(ctx, redis, name, dedup.Config{Eviction: dedup.EvictionIgnore})
	if err != nil {
		t.Fatal(err)
	}
	table, err := staging.New(ctx, pool, "readings", staging.Config[reading]{Create: true, Key: []string{"sensor"}})
	if err != nil {
		t.Fatal(err)
	}
	flow := pipeline.Flow[reading]{
		Queue: q, Table: table,
		Chain: pipeline.Then(
			pipeline.Decode(func(b []byte) (reading, error) {
				if strings.HasPrefix(string(b), "bad") {
					return reading{}, pipeline.Reject("bad_sensor", "no sensor")
				}
				return reading{string(b)}, nil
			}),
			pipeline.Dedup(seen, func(r reading) string { return r.Sensor }),
		),
	}
	worker, promoter := program(t, otelpipeline.Config{}), program(t, otelpipeline.Config{})
	stop, err := promoter.Watch(otelpipeline.Stores{Name: name, Queue: q, Table: table, Dedup: seen, DedupWindow: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for _, payloads := range []string{"attic cellar attic bad1", "garage bad2 bad3 cellar"} {
		var records [][]byte
		for _, p := range strings.Fields(payloads) {
			records = append(records, []byte(p))
		}
		if err := q.Push(ctx, records...); err != nil {
			t.Fatal(err)
		}
	}
	promoter.shows(t, map[string]float64{
		"headrace.queue.records state=ready": 8, "headrace.queue.paused": 0, "headrace.queue.oldest.age": 0, "headrace.table.staged unit=batches": 0,
		"headrace.dedup.window": 3600, "headrace.store.up store=queue": 1, "headrace.store.up store=table": 1, "headrace.store.up store=dedup": 1,
	})

	running, end := context.WithCancel(ctx)
	defer end()
	handed := 0
	w, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{Name: "w", Concurrency: 1, Records: 4, Observer: pipeline.ObserverFunc(func(ctx context.Context, e pipeline.Event) {
		worker.Observe(ctx, e)
		if e.Op == pipeline.OpHandoff && e.Err == nil {
			if handed++; handed == 2 {
				end()
			}
		}
	})})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Run(running); err != nil {
		t.Fatal(err)
	}
	promoter.shows(t, map[string]float64{
		"headrace.queue.records state=handed_off": 8, "headrace.queue.records state=in_flight": 0, "headrace.queue.batches state=handed_off": 2,
		"headrace.table.staged unit=batches": 2, "headrace.table.staged unit=records": 8, "headrace.table.staged unit=rows": 3,
		"headrace.table.failing.age": 0,
	})
	p, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{Observer: promoter})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := p.Promote(ctx); n != 2 || err != nil {
		t.Fatalf("promoted %d batches, %v; want 2", n, err)
	}
	if err := errors.Join(p.Reconcile(ctx), worker.Close()); err != nil {
		t.Fatal(err)
	}

	worker.shows(t, map[string]float64{
		"headrace.steps op=lease outcome=ok": 2, "headrace.steps op=handoff outcome=ok": 2, "headrace.step.duration op=stage outcome=ok": 2,
		"headrace.batches op=handoff": 2, "headrace.records op=lease outcome=ok": 8,
		"headrace.records op=transform outcome=kept": 3, "headrace.records op=transform outcome=duplicate": 2, "headrace.records op=transform outcome=rejected": 3,
		"headrace.rejects code=bad_sensor":                 3,
		"headrace.stage.values direction=in stage=decode":  8,
		"headrace.stage.values direction=out stage=decode": 5,
		"headrace.stage.values direction=out stage=dedup":  3,
		"headrace.stage.duration stage=dedup":              2,
	})
	promoter.shows(t, map[string]float64{
		"headrace.records op=promote outcome=kept": 3, "headrace.records op=promote outcome=duplicate": 2, "headrace.records op=promote outcome=rejected": 3,
		"headrace.rows outcome=promoted": 3, "headrace.batches op=ack": 2, "headrace.steps op=reconcile outcome=ok": 1,
		"headrace.queue.records state=handed_off": 0, "headrace.table.staged unit=batches": 0,
	})
	if err := errors.Join(stop(), promoter.Close()); err != nil {
		t.Error(err)
	}
	if n := len(promoter.values(t)); n == 0 {
		t.Error("the counters are gone after Close, want only the gauges to be")
	}

	// The traces.
	batches := make(map[string]map[string]tracetest.SpanStub)
	var promotion tracetest.SpanStub
	for _, s := range append(worker.spans.GetSpans(), promoter.spans.GetSpans()...) {
		switch id := value(s, "headrace.batch"); {
		case s.Name == "headrace.promotion":
			promotion = s
		case id != "":
			if s.SpanContext.TraceID() != otelpipeline.TraceID(id) {
				t.Errorf("%s of batch %s is in trace %v, want %v", s.Name, id, s.SpanContext.TraceID(), otelpipeline.TraceID(id))
			}
			if batches[id] == nil {
				batches[id] = make(map[string]tracetest.SpanStub)
			}
			batches[id][s.Name] = s
		}
	}
	if len(batches) != 2 || len(promotion.Links) != 2 {
		t.Fatalf("got the spans of %d batches, and a promotion with %d links; want 2 and 2", len(batches), len(promotion.Links))
	}
	for id, s := range batches {
		order := []string{"headrace.batch", "headrace.transform", "headrace.stage", "headrace.handoff", "headrace.promote", "headrace.ack"}
		for i, name := range order {
			if _, ok := s[name]; !ok {
				t.Fatalf("batch %s: no span %s", id, name)
			}
			if i > 1 && s[name].StartTime.Before(s[order[i-1]].StartTime) {
				t.Errorf("batch %s: %s starts before %s", id, name, order[i-1])
			}
		}
		for child, parent := range map[string]string{
			"headrace.transform": "headrace.batch", "headrace.stage": "headrace.batch", "headrace.handoff": "headrace.batch", "headrace.ack": "headrace.promote",
		} {
			if s[child].Parent.SpanID() != s[parent].SpanContext.SpanID() {
				t.Errorf("batch %s: %s is not a child of %s", id, child, parent)
			}
		}
		for _, root := range []string{"headrace.batch", "headrace.promote"} {
			if s[root].Parent.SpanID().IsValid() {
				t.Errorf("batch %s: %s has a parent, want a root", id, root)
			}
		}
		if l := s["headrace.promote"].Links; len(l) != 1 || !l[0].SpanContext.Equal(promotion.SpanContext) {
			t.Errorf("batch %s: its promotion has the links %v, want the one to %v", id, l, promotion.SpanContext)
		}
	}
}

func value(s tracetest.SpanStub, key string) string {
	for _, a := range s.Attributes {
		if string(a.Key) == key {
			return a.Value.String()
		}
	}
	return ""
}

// A sampler by trace id keeps or drops the spans of a batch in all programs alike.
func TestASamplerDecidesForAWholeBatch(t *testing.T) {
	t.Parallel()
	exporters := []*tracetest.InMemoryExporter{tracetest.NewInMemoryExporter(), tracetest.NewInMemoryExporter()}
	var observers []*otelpipeline.Observer
	for _, e := range exporters {
		o, err := otelpipeline.New(otelpipeline.Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(e),
			sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(0.25))))})
		if err != nil {
			t.Fatal(err)
		}
		observers = append(observers, o)
	}
	const batches = 4000
	for i := range batches {
		id := fmt.Sprint("batch-", i)
		observers[0].Observe(t.Context(), pipeline.Event{Op: pipeline.OpLease, Batch: id, At: time.Now()})
		observers[0].Observe(t.Context(), pipeline.Event{Op: pipeline.OpHandoff, Batch: id, At: time.Now()})
		observers[1].Observe(t.Context(), pipeline.Event{Op: pipeline.OpPromote, IDs: []string{id}, At: time.Now()})
	}
	var kept [2]map[string]bool
	for i, e := range exporters {
		kept[i] = make(map[string]bool)
		for _, s := range e.GetSpans() {
			if id := value(s, "headrace.batch"); id != "" {
				kept[i][id] = true
			}
		}
	}
	if !maps.Equal(kept[0], kept[1]) {
		t.Errorf("the worker kept %d batches, the promoter %d, and not the same ones", len(kept[0]), len(kept[1]))
	}
	if n := len(kept[0]); n < batches/5 || n > batches*3/10 {
		t.Errorf("%d of %d batches were kept, want about a quarter", n, batches)
	}
}

// Failures are counted by type, and a batch whose end is not reported leaves no span open.
func TestFailuresAndMissedEvents(t *testing.T) {
	t.Parallel()
	var passed int
	o := program(t, otelpipeline.Config{Next: pipeline.ObserverFunc(func(context.Context, pipeline.Event) { passed++ })})
	at := time.Now()
	events := []pipeline.Event{
		{Op: pipeline.OpLease, Err: context.DeadlineExceeded},
		{Op: pipeline.OpLease, Batch: "a", Batches: 1, Records: 3, InProgress: pipeline.InProgress{Batches: 1, Records: 3}},
		{Op: pipeline.OpStage, Batch: "a", Batches: 1, Records: 3, Err: fmt.Errorf("staging: %w", &pgconn.PgError{Code: "42501"})},
		{Op: pipeline.OpRelease, Batch: "a", Batches: 1, Records: 3, Err: errors.New("given back"), InProgress: pipeline.InProgress{Batches: 1, Records: 3}},
		{Op: pipeline.OpLease, Batch: "b", Batches: 1, Records: 3, InProgress: pipeline.InProgress{Batches: 1, Records: 3}},
		{Op: pipeline.OpLease, Batch: "b", Batches: 1, Records: 3, Attempt: 2}, // the first was lost with its end
		{Op: pipeline.OpRelease, Batch: "b", Batches: 1, Records: 3, Attempt: 2, Err: queue.ErrLeaseLost},
		{Op: pipeline.OpLease, Batch: "c", Batches: 1, Records: 3},
		{Op: pipeline.OpHandoff, Batch: "d", Batches: 1, Records: 3, Missed: 7, InProgress: pipeline.InProgress{Batches: 2, Records: 6}},
		{Op: pipeline.OpStuck, Step: "staging", Since: at.Add(-time.Hour), Failures: 9},
		{Op: pipeline.OpStuck, Step: "queue access", Since: at.Add(-time.Hour), Failures: 9},
		{Op: pipeline.OpRecovered, Step: "queue access", Since: at.Add(-time.Hour)},
		{Op: pipeline.OpLease, Batch: "e", InProgress: pipeline.InProgress{Batches: 1, Records: 3}},
	}
	for _, e := range events {
		e.At = at
		o.Observe(t.Context(), e)
	}
	o.shows(t, map[string]float64{
		"headrace.errors error.type=timeout op=lease": 1, "headrace.errors error.type=42501 op=stage": 1, "headrace.errors error.type=lease_lost op=release": 1,
		"headrace.errors error.type=_OTHER op=release": 1, "headrace.steps op=release outcome=lost": 1, "headrace.steps op=release outcome=ok": 1,
		"headrace.events.missed": 7, "headrace.in_progress unit=batches": 1, "headrace.in_progress unit=records": 3,
	})
	values := o.values(t)
	if age := values["headrace.stuck.age step=staging"]; age < 3600 || age > 7200 {
		t.Errorf("staging is stuck for %v s, want an hour", age)
	}
	if _, ok := values["headrace.stuck.age step=queue access"]; ok {
		t.Error("a step that works again is still reported as stuck")
	}
	if passed != len(events) {
		t.Errorf("%d events were passed on, want %d", passed, len(events))
	}
	ended := make(map[string]int)
	count := func() {
		clear(ended)
		for _, s := range o.spans.GetSpans() {
			if s.Name == "headrace.batch" {
				ended[value(s, "headrace.batch")]++
			}
		}
	}
	if count(); !maps.Equal(ended, map[string]int{"a": 1, "b": 2, "c": 1, "d": 1}) {
		t.Errorf("ended spans of batches: %v, want one of a, c and d and two of b", ended)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	if count(); ended["e"] != 1 {
		t.Errorf("ended spans of batches after Close: %v, want one of e", ended)
	}
}

// silent does not answer.
type silent struct{}

func (silent) Stats(ctx context.Context) (queue.Stats, error) {
	<-ctx.Done()
	return queue.Stats{}, ctx.Err()
}

// A store that does not answer costs its own gauges, and the collection no more than the timeout.
func TestASilentStoreCostsOnlyItsOwnGauges(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	o := program(t, otelpipeline.Config{Timeout: 10 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	seen, err := dedup.New(t.Context(), servertest.Redis(t), servertest.Prefix(t), dedup.Config{Eviction: dedup.EvictionIgnore})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Watch(otelpipeline.Stores{Name: "orders", Queue: silent{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Watch(otelpipeline.Stores{Name: "orders", Dedup: patient{seen}}); err != nil {
		t.Fatal(err)
	}
	o.values(t)
	got := o.values(t)
	if got["headrace.store.up store=queue"] != 0 || got["headrace.store.up store=dedup"] != 1 {
		t.Errorf("got %v, want the queue down and the window up", got)
	}
	if _, ok := got["headrace.queue.paused"]; ok {
		t.Error("there are gauges of a queue that does not answer")
	}
	if n := strings.Count(log.String(), "cannot read a store"); n != 1 {
		t.Errorf("%d log lines for two failures, want 1:\n%s", n, log.String())
	}
}

// patient asks without the caller's time limit.
type patient struct{ *dedup.Deduplicator }

func (p patient) Stats(ctx context.Context) (dedup.Stats, error) {
	return p.Deduplicator.Stats(context.WithoutCancel(ctx))
}

func TestConfig(t *testing.T) {
	t.Parallel()
	if _, err := otelpipeline.New(otelpipeline.Config{Timeout: -1}); !errors.Is(err, otelpipeline.ErrConfig) {
		t.Errorf("a negative timeout: %v, want ErrConfig", err)
	}
	o, err := otelpipeline.New(otelpipeline.Config{}) // the global providers, which do nothing
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Watch(otelpipeline.Stores{}); !errors.Is(err, otelpipeline.ErrConfig) {
		t.Errorf("stores without a name: %v, want ErrConfig", err)
	}
	o.Observe(t.Context(), pipeline.Event{Op: pipeline.OpLease, Batch: "a"})
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

// A program that uses the pipeline without this package does not link OpenTelemetry.
func TestThePipelineDoesNotDependOnOpenTelemetry(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "../../pipeline", "../../queue", "../../staging").Output()
	if err != nil {
		t.Fatal(err)
	}
	for p := range strings.Lines(string(out)) {
		if strings.HasPrefix(p, "go.opentelemetry.io/") || strings.HasPrefix(p, "github.com/prometheus/") {
			t.Errorf("the pipeline imports %s", p)
		}
	}
	out, err = exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "go.opentelemetry.io/otel/sdk") {
		t.Error("this package imports the SDK, want only the API")
	}
}
