package otelpipeline

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/rueidis"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// buckets are the bounds of the duration histograms, in seconds: from a call on a fast network to a
// promotion of many rows.
var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}

// counts are the instruments that events add to.
type counts struct {
	steps, errors, batches, records, rows, rejects, values, missed metric.Int64Counter
	duration, stage                                                metric.Float64Histogram
}

func (o *Observer) instruments() error {
	var failed error
	counter := func(name, unit, text string) metric.Int64Counter {
		c, err := o.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(text))
		failed = errors.Join(failed, err)
		return c
	}
	histogram := func(name, text string) metric.Float64Histogram {
		h, err := o.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(text), metric.WithExplicitBucketBoundaries(buckets...))
		failed = errors.Join(failed, err)
		return h
	}
	o.counts = counts{
		steps:    counter("headrace.steps", "{step}", "Steps of workers and promoters."),
		errors:   counter("headrace.errors", "{error}", "Steps that failed, by the type of the error."),
		batches:  counter("headrace.batches", "{batch}", "Batches of the steps that succeeded."),
		records:  counter("headrace.records", "{record}", "Records of the steps that succeeded, by what became of them."),
		rows:     counter("headrace.rows", "{row}", "Rows of promotions, by what became of them."),
		rejects:  counter("headrace.rejects", "{record}", "Records that a transform rejected, by code."),
		values:   counter("headrace.stage.values", "{value}", "Values that went into and came out of a stage of the chain."),
		missed:   counter("headrace.events.missed", "{event}", "Events that were dropped because an observer was too slow."),
		duration: histogram("headrace.step.duration", "Duration of the steps. A lease includes the wait for records."),
		stage:    histogram("headrace.stage.duration", "Duration of a stage of the chain for a batch."),
	}
	gauge := func(name, unit, text string) metric.Int64ObservableGauge {
		g, err := o.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(text))
		failed = errors.Join(failed, err)
		return g
	}
	hand := gauge("headrace.in_progress", "", "What workers hold: batches that are leased and not handed off.")
	stuck, err := o.meter.Float64ObservableGauge("headrace.stuck.age", metric.WithUnit("s"),
		metric.WithDescription("How long a step has failed again and again. Absent: it works."))
	if failed = errors.Join(failed, err); failed != nil {
		return failed
	}
	o.gauge, err = o.meter.RegisterCallback(func(_ context.Context, r metric.Observer) error {
		o.mu.Lock()
		defer o.mu.Unlock()
		for p, h := range o.hands {
			name := []attribute.KeyValue{attribute.String("queue", p.queue), attribute.String("program", p.name)}
			for unit, n := range map[string]int{"batches": h.Batches, "records": h.Records} {
				r.ObserveInt64(hand, int64(n), metric.WithAttributes(append(slices.Clone(name), attribute.String("unit", unit))...))
			}
		}
		for s, since := range o.stuck {
			r.ObserveFloat64(stuck, max(0, time.Since(since).Seconds()), metric.WithAttributes(
				attribute.String("queue", s.queue), attribute.String("program", s.program), attribute.String("step", s.step)))
		}
		return nil
	}, hand, stuck)
	return err
}

// add counts an event.
func (c counts) add(ctx context.Context, e pipeline.Event) {
	name := attribute.String("queue", e.Queue)
	with := func(more ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributes(append(more, name)...)
	}
	if e.Missed > 0 {
		c.missed.Add(ctx, int64(e.Missed), with())
	}
	if e.Op == pipeline.OpStuck || e.Op == pipeline.OpRecovered {
		return // they repeat what the steps have reported
	}
	op := attribute.String("op", string(e.Op))
	step := with(op, attribute.String("outcome", outcome(e)))
	c.steps.Add(ctx, 1, step)
	c.duration.Record(ctx, e.Duration.Seconds(), step)
	for _, s := range e.Stages {
		stage := attribute.String("stage", s.Name)
		c.values.Add(ctx, int64(s.In), with(stage, attribute.String("direction", "in")))
		c.values.Add(ctx, int64(s.Out), with(stage, attribute.String("direction", "out")))
		c.stage.Record(ctx, s.Duration.Seconds(), with(stage))
	}
	if e.Err != nil {
		c.errors.Add(ctx, 1, with(op, attribute.String("error.type", errorType(e.Err))))
		if e.Op != pipeline.OpRelease {
			return
		}
	}
	c.batches.Add(ctx, int64(e.Batches), with(op))
	add := func(outcome string, n int) {
		if n != 0 {
			c.records.Add(ctx, int64(n), with(op, attribute.String("outcome", outcome)))
		}
	}
	switch e.Op {
	case pipeline.OpTransform, pipeline.OpPromote:
		add("duplicate", e.Duplicates)
		add("filtered", e.Filtered)
		add("rejected", e.Rejected)
		add("kept", e.Records-e.Duplicates-e.Filtered-e.Rejected)
	default:
		add(outcome(e), e.Records)
	}
	for code, n := range e.Codes {
		c.rejects.Add(ctx, int64(n), with(attribute.String("code", code)))
	}
	if e.Op == pipeline.OpPromote {
		for outcome, n := range map[string]int64{"promoted": e.Rows, "conflict": int64(e.Conflicts), "rejected_by_rule": int64(e.RejectedByRule)} {
			if n != 0 {
				c.rows.Add(ctx, n, with(attribute.String("outcome", outcome)))
			}
		}
	}
}

// outcome is how a step ended. A batch that is given back is no failure of the release.
func outcome(e pipeline.Event) string {
	switch {
	case errors.Is(e.Err, queue.ErrLeaseLost):
		return "lost"
	case e.Err == nil || e.Op == pipeline.OpRelease:
		return "ok"
	}
	return "error"
}

// errorType is a short stable word for an error: the SQLSTATE of Postgres, the first word of a
// reply of Redis, or a word of this package. _OTHER is what OpenTelemetry's conventions prescribe.
func errorType(err error) string {
	var pg *pgconn.PgError
	var redis *rueidis.RedisError
	var network net.Error
	switch {
	case errors.As(err, &pg):
		return pg.Code
	case errors.As(err, &redis):
		word, _, _ := strings.Cut(redis.Error(), " ")
		return word
	case errors.Is(err, queue.ErrLeaseLost):
		return "lease_lost"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.As(err, &network):
		return "network"
	}
	return "_OTHER"
}
