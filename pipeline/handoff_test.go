package pipeline_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// handoffQueue calls handoff in place of Handoff, and extended after each Extend that fails.
type handoffQueue struct {
	*queue.Queue
	handoff  func(ctx context.Context, b *queue.Batch) error
	extended func(err error)
}

func (q *handoffQueue) Handoff(ctx context.Context, b *queue.Batch) error { return q.handoff(ctx, b) }

func (q *handoffQueue) Extend(ctx context.Context, b *queue.Batch, d time.Duration) error {
	return q.note(q.Queue.Extend(ctx, b, d))
}

func (q *handoffQueue) ExtendWaiting(ctx context.Context, b *queue.Batch, d time.Duration) error {
	return q.note(q.Queue.ExtendWaiting(ctx, b, d))
}

func (q *handoffQueue) note(err error) error {
	if err != nil && q.extended != nil {
		q.extended(err)
	}
	return err
}

// A batch that was handed off is reported as handed off, also when the answer is lost, when a
// heartbeat meets the end of the lease first, or when the worker stops meanwhile. It is neither
// reported as lost nor given back.
func TestHandoffWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, r *rig, q *handoffQueue, stop func()){
		"the reply is lost": func(_ *testing.T, r *rig, q *handoffQueue, _ func()) {
			var once sync.Once
			q.handoff = func(ctx context.Context, b *queue.Batch) error {
				err := r.queue.Handoff(ctx, b)
				once.Do(func() { err = errLostReply })
				return err
			}
		},
		"the reply is lost and the batch promoted": func(t *testing.T, r *rig, q *handoffQueue, _ func()) {
			promoter, err := pipeline.NewPromoter(r.flow, pipeline.PromoterConfig{Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			var once sync.Once
			q.handoff = func(ctx context.Context, b *queue.Batch) error {
				err := r.queue.Handoff(ctx, b)
				once.Do(func() {
					if n, perr := promoter.Promote(ctx); n != 1 || perr != nil {
						t.Errorf("promoted %d batches, %v; want 1", n, perr)
					}
					err = errLostReply
				})
				return err
			}
		},
		"a heartbeat comes in between": func(_ *testing.T, r *rig, q *handoffQueue, _ func()) {
			refused := make(chan struct{})
			var once sync.Once
			q.extended = func(err error) {
				if errors.Is(err, queue.ErrLeaseLost) {
					once.Do(func() { close(refused) })
				}
			}
			q.handoff = func(ctx context.Context, b *queue.Batch) error {
				err := r.queue.Handoff(ctx, b)
				<-refused
				return errors.Join(err, ctx.Err())
			}
		},
		"the worker stops": func(_ *testing.T, r *rig, q *handoffQueue, stop func()) {
			q.handoff = func(ctx context.Context, b *queue.Batch) error {
				if err := r.queue.Handoff(ctx, b); err != nil {
					return err
				}
				stop()
				<-ctx.Done()
				return ctx.Err()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			q := &handoffQueue{Queue: r.queue}
			prepare(t, r, q, cancel)
			r.flow.Queue = q
			log := newLines()
			ended := make(chan struct{})
			var seen []pipeline.Event
			r.push("a good", "b good")
			wait := r.startWorker(ctx, pipeline.WorkerConfig{
				Concurrency: 1, LeaseDuration: 300 * time.Millisecond, BatchTimeout: time.Minute, ShutdownTimeout: 100 * time.Millisecond,
				Logger: slog.New(log),
				Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
					if e.Op == pipeline.OpHandoff || e.Op == pipeline.OpRelease {
						if seen = append(seen, e); len(seen) == 1 {
							close(ended)
						}
					}
				}),
			})
			<-ended
			cancel()
			wait()
			if len(seen) != 1 || seen[0].Op != pipeline.OpHandoff || seen[0].Err != nil || seen[0].Records != 2 {
				t.Errorf("events %+v, want one clean handoff of 2 records", seen)
			}
			for _, text := range []string{"lost a batch", "gave back"} {
				if got := log.with(text); got != nil {
					t.Errorf("log %q, want nothing about a batch that was handed off", got)
				}
			}
			if s, err := r.queue.Stats(context.Background()); err != nil || s.HandedOff+s.Acked != 2 || s.Redelivered != 0 {
				t.Errorf("%+v, %v; want 2 records handed off or acknowledged, none delivered again", s, err)
			}
		})
	}
}

// silentRelease is a queue that does not answer Release.
type silentRelease struct{ *queue.Queue }

func (silentRelease) Release(ctx context.Context, _ *queue.Batch, _ queue.ReleaseOptions) error {
	<-ctx.Done()
	return ctx.Err()
}

// A worker that stops while Redis does not answer is not taken for one whose chain hangs.
func TestStopWhileRedisIsSilent(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	begun := make(chan struct{})
	r.flow.Chain = pipeline.Then(r.flow.Chain, pipeline.Func("wait", func(ctx context.Context, _ *pipeline.Batch, _ pipeline.Records[item]) (pipeline.Records[item], error) {
		close(begun)
		<-ctx.Done()
		return pipeline.Records[item]{}, ctx.Err()
	}))
	r.flow.Queue = silentRelease{r.queue}
	r.push("a good")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wait := r.startWorker(ctx, pipeline.WorkerConfig{Concurrency: 1, ShutdownTimeout: 10 * time.Millisecond})
	<-begun
	cancel()
	wait() // an error of Run, such as ErrStageHangs, fails the test
}
