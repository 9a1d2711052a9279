package pipeline_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/pipelinetest"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// unextendable is a queue whose calls of Extend fail, once a batch was marked as waiting.
type unextendable struct {
	*pipelinetest.Queue
	waits chan struct{}
	fails atomic.Int32
}

func (q *unextendable) ExtendWaiting(ctx context.Context, b *queue.Batch, d time.Duration) error {
	defer func() {
		select {
		case q.waits <- struct{}{}:
		default:
		}
	}()
	return q.Queue.ExtendWaiting(ctx, b, d)
}

func (q *unextendable) Extend(ctx context.Context, b *queue.Batch, d time.Duration) error {
	if q.fails.Add(-1) >= 0 {
		return pipeline.Unavailable(errors.New("no connection to Redis"))
	}
	return q.Queue.Extend(ctx, b, d)
}

// lateTable encodes the rows of a batch when the queue knows that the batch waits.
type lateTable struct {
	*pipelinetest.Table[item]
	waits chan struct{}
}

func (t lateTable) Stage(ctx context.Context, l staging.Load[item]) (staging.Outcome, error) {
	select {
	case <-t.waits:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	out, err := t.Table.Stage(ctx, l)
	if err != nil {
		t.waits <- struct{}{} // for the next attempt
	}
	return out, err
}

// Before rows are encoded, the queue learns that the batch no longer waits. If Redis does not
// answer then, the log names the queue, and staging is not at fault.
func TestAnOutageOfRedisIsNoFailureOfStaging(t *testing.T) {
	t.Parallel()
	q := &unextendable{Queue: pipelinetest.NewQueue("q"), waits: make(chan struct{}, 1)}
	q.fails.Store(3)
	table := lateTable{pipelinetest.NewTable[item](), q.waits}
	log := newLines()
	flow := pipeline.Flow[item]{Queue: q, Table: table, Chain: pipeline.Decode(func(p []byte) (item, error) { return item{ID: string(p)}, nil })}
	w, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{Logger: slog.New(log)})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Push(t.Context(), []byte("a")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	wait := background(t, func() error { return w.Run(ctx) })
	eventually(t, time.Minute, func() error {
		s, err := q.Stats(ctx)
		if err == nil && s.HandedOff != 1 {
			err = errors.New("not handed off")
		}
		return err
	})
	cancel()
	wait()
	if got := log.with("queue access failed"); len(got) != 1 {
		t.Errorf("got %q, want one line about the queue", got)
	}
	if got := log.with("staging"); got != nil {
		t.Errorf("got %q, want nothing about staging", got)
	}
}
