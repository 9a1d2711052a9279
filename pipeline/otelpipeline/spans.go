package otelpipeline

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/headrace/headrace/pipeline"
)

// TraceID returns the id of the trace that holds all spans of a batch: the beginning of the SHA-256
// digest of the batch's id. It is spread evenly, as a sampler by trace id expects.
func TraceID(batch string) trace.TraceID {
	sum := sha256.Sum256([]byte(batch))
	return trace.TraceID(sum[:16])
}

// spans turns events into spans. An event reports the end of a step, so a span is started and ended
// at once, with the times of the step. Only the span of a batch that a worker holds stays open.
type spans struct {
	tracer trace.Tracer

	mu       *sync.Mutex
	open     map[held]context.Context // of the batch's span
	promoted map[string]context.Context
}

// held is a batch in the hand of a worker.
type held struct{ queue, program, batch string }

func newSpans(t trace.Tracer) spans {
	return spans{tracer: t, mu: new(sync.Mutex), open: make(map[held]context.Context), promoted: make(map[string]context.Context)}
}

// inTrace is a context in which a span becomes a root in the trace of a batch: it has the trace's
// id, and no parent.
func inTrace(ctx context.Context, batch string) context.Context {
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: TraceID(batch)}))
}

// add records an event.
func (s *spans) add(ctx context.Context, e pipeline.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Missed > 0 { // the ends of open spans may be among what was missed
		s.drop(func(h held) bool { return h.queue == e.Queue && h.program == e.Program })
	}
	switch e.Op {
	case pipeline.OpStuck, pipeline.OpRecovered:
	case pipeline.OpPromote:
		s.promotion(ctx, e)
	case pipeline.OpReconcile, pipeline.OpRefresh, pipeline.OpPrune:
		_, span := s.tracer.Start(ctx, "headrace."+string(e.Op), trace.WithNewRoot(), begin(e), describe(e))
		finish(span, e)
	case pipeline.OpAck:
		if e.Batch == "" {
			s.acks(ctx, e)
			return
		}
		s.step(ctx, e)
	default:
		if e.Batch != "" {
			s.step(ctx, e)
		}
	}
}

// step records a worker's step on a batch.
func (s *spans) step(ctx context.Context, e pipeline.Event) {
	key := held{e.Queue, e.Program, e.Batch}
	at, ok := s.open[key]
	if ok && e.Op == pipeline.OpLease { // another attempt, although the end of the last was not reported
		trace.SpanFromContext(at).End(trace.WithTimestamp(e.At))
		ok = false
	}
	if !ok {
		start := e.At.Add(-e.Duration)
		if e.Op == pipeline.OpLease {
			start = e.At // the wait for records is not the batch's
		}
		at, _ = s.tracer.Start(inTrace(ctx, e.Batch), "headrace.batch", trace.WithTimestamp(start), describe(e))
		s.open[key] = at
	}
	batch := trace.SpanFromContext(at)
	if e.Op == pipeline.OpLease {
		batch.AddEvent("leased", trace.WithTimestamp(e.At), trace.WithAttributes(attribute.Float64("headrace.waited", e.Duration.Seconds())))
		return
	}
	if e.Op != pipeline.OpRelease {
		child, span := s.tracer.Start(at, "headrace."+string(e.Op), begin(e), describe(e))
		s.stages(child, e)
		finish(span, e)
	}
	if e.Op == pipeline.OpRelease || e.Err == nil && (e.Op == pipeline.OpHandoff || e.Op == pipeline.OpAck) {
		delete(s.open, key)
		finish(batch, e)
	}
}

// stages records the stages of a transform, which run one after the other.
func (s *spans) stages(ctx context.Context, e pipeline.Event) {
	at := e.At.Add(-e.Duration)
	for _, stage := range e.Stages {
		_, span := s.tracer.Start(ctx, "headrace.chain "+stage.Name, trace.WithTimestamp(at), trace.WithAttributes(
			attribute.Int("headrace.in", stage.In), attribute.Int("headrace.out", stage.Out)))
		at = at.Add(stage.Duration)
		span.End(trace.WithTimestamp(at))
	}
}

// promotion records a promotion, and a span in the trace of each of its batches.
func (s *spans) promotion(ctx context.Context, e pipeline.Event) {
	_, all := s.tracer.Start(ctx, "headrace.promotion", trace.WithNewRoot(), begin(e), describe(e))
	clear(s.promoted)
	for _, id := range e.IDs {
		at, span := s.tracer.Start(inTrace(ctx, id), "headrace.promote", begin(e), trace.WithLinks(trace.Link{SpanContext: all.SpanContext()}),
			trace.WithAttributes(attribute.String("headrace.queue", e.Queue), attribute.String("headrace.batch", id)))
		all.AddLink(trace.Link{SpanContext: span.SpanContext(), Attributes: []attribute.KeyValue{attribute.String("headrace.batch", id)}})
		finish(span, e)
		s.promoted[id] = at
	}
	finish(all, e)
}

// acks records that promoted batches were acknowledged, under the span of their promotion.
func (s *spans) acks(ctx context.Context, e pipeline.Event) {
	for _, id := range e.IDs {
		at, ok := s.promoted[id]
		if !ok {
			at = inTrace(ctx, id)
		}
		delete(s.promoted, id)
		_, span := s.tracer.Start(at, "headrace.ack", begin(e),
			trace.WithAttributes(attribute.String("headrace.queue", e.Queue), attribute.String("headrace.batch", id)))
		finish(span, e)
	}
}

// drop ends the open spans of some batches.
func (s *spans) drop(which func(held) bool) {
	for key, at := range s.open {
		if which(key) {
			span := trace.SpanFromContext(at)
			span.SetAttributes(attribute.Bool("headrace.incomplete", true))
			span.End()
			delete(s.open, key)
		}
	}
}

// end ends all open spans.
func (s *spans) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(func(held) bool { return true })
}

func begin(e pipeline.Event) trace.SpanStartOption { return trace.WithTimestamp(e.At.Add(-e.Duration)) }

func finish(span trace.Span, e pipeline.Event) {
	if e.Err != nil {
		span.RecordError(e.Err, trace.WithTimestamp(e.At))
		span.SetStatus(codes.Error, errorType(e.Err))
		span.SetAttributes(attribute.String("error.type", errorType(e.Err)))
	}
	span.End(trace.WithTimestamp(e.At))
}

// describe returns the attributes of an event: everything except its times and its error.
func describe(e pipeline.Event) trace.SpanStartOption {
	list := []attribute.KeyValue{attribute.String("headrace.queue", e.Queue), attribute.String("headrace.program", e.Program)}
	if e.Batch != "" {
		list = append(list, attribute.String("headrace.batch", e.Batch), attribute.Int64("headrace.attempt", e.Attempt))
	}
	for _, n := range []struct {
		name string
		n    int64
	}{
		{"batches", int64(e.Batches)}, {"records", int64(e.Records)}, {"rows", e.Rows}, {"duplicates", int64(e.Duplicates)},
		{"filtered", int64(e.Filtered)}, {"rejected", int64(e.Rejected)}, {"conflicts", int64(e.Conflicts)}, {"rejected_by_rule", int64(e.RejectedByRule)},
	} {
		if n.n != 0 {
			list = append(list, attribute.Int64("headrace."+n.name, n.n))
		}
	}
	return trace.WithAttributes(slices.Clip(list)...)
}
