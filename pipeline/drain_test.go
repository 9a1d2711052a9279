package pipeline_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/pipelinetest"
	"github.com/headrace/headrace/queue"
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

// A drain that has read nothing does not report that nothing is left.
func TestDrainWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	q := &failingStats{Queue: pipelinetest.NewQueue("orders"), errs: []error{context.Canceled}}
	flow := pipeline.Flow[item]{Queue: q, Table: pipelinetest.NewTable[item](), Chain: pipeline.Decode(decodeItem)}
	if err := flow.Drain(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "the queue has not answered") {
		t.Errorf("got %v, want that the queue has not answered", err)
	}
}

// Without a deadline, a drain waits for a Redis that is away, and ends when waiting cannot help.
func TestDrainEndsOnAPermanentError(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.push("a good")
	failing := &failingStats{Queue: r.queue, errs: []error{errors.New("connection refused"), context.DeadlineExceeded}}
	r.flow.Queue = failing
	key := "{" + r.queue.Name() + "}:queue:stat"
	for _, args := range [][]string{{"DEL", key}, {"SET", key, "no hash"}} {
		if err := r.redis.Do(t.Context(), r.redis.B().Arbitrary(args...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // only detects a hang
	defer cancel()
	if err := r.flow.Drain(ctx); !errors.Is(err, queue.ErrWrongType) || !strings.HasPrefix(err.Error(), "pipeline: not drained: ") {
		t.Errorf("got %v, want the wrong type", err)
	}
	if len(failing.errs) != 0 {
		t.Errorf("%d errors that pass were not waited for", len(failing.errs))
	}
}

// failingStats is a queue whose first calls of Stats fail.
type failingStats struct {
	pipeline.Queue
	errs []error
}

func (q *failingStats) Stats(ctx context.Context) (queue.Stats, error) {
	if len(q.errs) > 0 {
		err := q.errs[0]
		q.errs = q.errs[1:]
		return queue.Stats{}, err
	}
	return q.Queue.Stats(ctx)
}
