package otelpipeline_test

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/otelpipeline"
)

// The spans of a batch are in one trace, although a worker and a promoter write them. Usually
// WorkerConfig.Observer and PromoterConfig.Observer call Observe.
func ExampleObserver_Observe() {
	ctx := context.Background()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	o, err := otelpipeline.New(otelpipeline.Config{TracerProvider: provider})
	check(err)

	at := time.Now()
	for _, e := range []pipeline.Event{
		{Op: pipeline.OpLease, Batch: "b1", Batches: 1, Records: 2, At: at},
		{Op: pipeline.OpStage, Batch: "b1", Batches: 1, Records: 2, At: at.Add(30 * time.Millisecond), Duration: 20 * time.Millisecond},
		{Op: pipeline.OpHandoff, Batch: "b1", Batches: 1, Records: 2, At: at.Add(31 * time.Millisecond), Duration: time.Millisecond},
		{Op: pipeline.OpPromote, IDs: []string{"b1"}, Batches: 1, Records: 2, Rows: 2, At: at.Add(90 * time.Millisecond), Duration: 50 * time.Millisecond},
		{Op: pipeline.OpAck, IDs: []string{"b1"}, Batches: 1, At: at.Add(91 * time.Millisecond), Duration: time.Millisecond},
	} {
		o.Observe(ctx, e)
	}
	check(o.Close())
	for _, s := range exporter.GetSpans() {
		if s.SpanContext.TraceID() == otelpipeline.TraceID("b1") {
			fmt.Println(s.Name, s.EndTime.Sub(s.StartTime))
		}
	}
	// Output:
	// headrace.stage 20ms
	// headrace.handoff 1ms
	// headrace.batch 31ms
	// headrace.promote 50ms
	// headrace.ack 1ms
}

// Gauges read the stores at each collection.
func ExampleObserver_Watch() {
	ctx := context.Background()
	q, done := pushed(ctx, "orders", "one", "two", "three")
	defer done()
	reader := metric.NewManualReader() // a program uses an exporter, such as that of Prometheus
	o, err := otelpipeline.New(otelpipeline.Config{MeterProvider: metric.NewMeterProvider(metric.WithReader(reader))})
	check(err)
	stop, err := o.Watch(otelpipeline.Stores{Name: "orders", Queue: q})
	check(err)

	var all metricdata.ResourceMetrics
	check(reader.Collect(ctx, &all))
	for _, m := range all.ScopeMetrics[0].Metrics {
		if m.Name != "headrace.queue.records" {
			continue
		}
		for _, p := range m.Data.(metricdata.Gauge[int64]).DataPoints {
			if state, _ := p.Attributes.Value("state"); state.AsString() == "ready" {
				fmt.Println(m.Name, "ready", p.Value)
			}
		}
	}
	check(stop())
	check(o.Close())
	// Output: headrace.queue.records ready 3
}
