package otelpipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/pipeline"
)

// Scope is the name of the instrumentation scope.
const Scope = "github.com/headrace/headrace/pipeline/otelpipeline"

// DefaultTimeout is the default of Config.Timeout.
const DefaultTimeout = 5 * time.Second

// ErrConfig reports an invalid configuration.
var ErrConfig = errors.New("otelpipeline: invalid configuration")

// Config configures an [Observer]. The zero value takes the defaults.
type Config struct {
	// MeterProvider and TracerProvider receive metrics and spans. Nil: the global ones.
	MeterProvider  metric.MeterProvider
	TracerProvider trace.TracerProvider
	// Next receives every event, too. Nil: none.
	Next pipeline.Observer
	// Timeout bounds the reading of the stores for one collection. Default [DefaultTimeout].
	Timeout time.Duration
	// Logger receives the errors of that reading, when they begin. Nil: slog.Default().
	Logger *slog.Logger
}

// Observer is a pipeline.Observer that records metrics and spans. It is safe for concurrent use by
// any number of workers and promoters.
type Observer struct {
	cfg    Config
	meter  metric.Meter
	counts counts
	spans  spans

	mu    sync.Mutex
	stuck map[stuckStep]time.Time         // since when
	hands map[program]pipeline.InProgress // what a worker holds
	gauge metric.Registration             // of the observer's own gauges
}

type program struct{ queue, name string }

type stuckStep struct{ queue, program, step string }

// New returns an observer. Close it when the workers and promoters have returned.
func New(cfg Config) (*Observer, error) {
	if cfg.Timeout < 0 {
		return nil, fmt.Errorf("%w: Config.Timeout is %v, must not be negative", ErrConfig, cfg.Timeout)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if redisx.IsNil(cfg.MeterProvider) {
		cfg.MeterProvider = otel.GetMeterProvider()
	}
	if redisx.IsNil(cfg.TracerProvider) {
		cfg.TracerProvider = otel.GetTracerProvider()
	}
	if redisx.IsNil(cfg.Next) {
		cfg.Next = nil
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	o := &Observer{
		cfg: cfg, meter: cfg.MeterProvider.Meter(Scope), spans: newSpans(cfg.TracerProvider.Tracer(Scope)),
		stuck: make(map[stuckStep]time.Time), hands: make(map[program]pipeline.InProgress),
	}
	if err := o.instruments(); err != nil {
		return nil, fmt.Errorf("otelpipeline: could not create an instrument: %w", err)
	}
	return o, nil
}

// Observe records an event and passes it on to Config.Next.
func (o *Observer) Observe(ctx context.Context, e pipeline.Event) {
	o.note(e)
	o.counts.add(ctx, e)
	o.spans.add(ctx, e)
	if o.cfg.Next != nil {
		o.cfg.Next.Observe(ctx, e)
	}
}

// note keeps what the observer's own gauges report.
func (o *Observer) note(e pipeline.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	step := stuckStep{e.Queue, e.Program, e.Step}
	switch e.Op {
	case pipeline.OpStuck:
		o.stuck[step] = e.Since
	case pipeline.OpRecovered:
		delete(o.stuck, step)
	case pipeline.OpLease, pipeline.OpTransform, pipeline.OpStage, pipeline.OpHandoff, pipeline.OpRelease:
		hand := e.InProgress
		if e.Op == pipeline.OpRelease || e.Op == pipeline.OpHandoff && e.Err == nil { // it leaves the hand now
			hand.Batches, hand.Records = max(0, hand.Batches-e.Batches), max(0, hand.Records-e.Records)
		}
		o.hands[program{e.Queue, e.Program}] = hand
	}
}

// Close ends the spans that are open and the observer's own gauges.
func (o *Observer) Close() error {
	o.spans.end()
	return o.gauge.Unregister()
}
