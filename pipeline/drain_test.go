package pipeline_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/pipelinetest"
)

// Drain returns when all that was accepted is accounted for, dead records included.
func TestDrain(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	records := numbered("a", 700, "good")
	r.push(append(records, "x refuse", "malformed", "a1 good")...)
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.flow.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	stop()
	r.check(want{rows: idsOf(records), rejects: []string{"x", "malformed"}})
}

// A drain that is cut off states what is left.
func TestDrainStatesWhatIsLeft(t *testing.T) {
	t.Parallel()
	q := pipelinetest.NewQueue("orders")
	flow := pipeline.Flow[item]{Queue: q, Table: pipelinetest.NewTable[item](), Chain: pipeline.Decode(decodeItem)}
	if err := flow.Drain(t.Context()); err != nil {
		t.Errorf("an empty queue: %v, want nil", err)
	}
	if err := q.Push(t.Context(), []byte("a good"), []byte("b good")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := flow.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "2 ready, 0 delayed, 0 in flight") {
		t.Errorf("got %v, want the deadline and what is left", err)
	}
}
