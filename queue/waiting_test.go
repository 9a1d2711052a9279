package queue_test

import (
	"errors"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// A worker that dies while its batch waits for the durable side leaves a batch that is not
// suspected, however often. One that dies in its own code leaves a crash, also after it had waited
// before.
func TestDeathWhileWaitingIsNoCrash(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		cfg := quick
		cfg.Lease.MaxCrashes = 100
		q := open(t, c, cfg)
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 3)...))
		const short = 20 * time.Millisecond
		for death, c := range []struct {
			extend  []func(b *queue.Batch) error // before the death
			crashes int                          // after it
		}{
			{[]func(b *queue.Batch) error{func(b *queue.Batch) error { return q.ExtendWaiting(ctx, b, short) }}, 0},
			{[]func(b *queue.Batch) error{func(b *queue.Batch) error { return q.ExtendWaiting(ctx, b, short) }}, 0},
			{[]func(b *queue.Batch) error{
				func(b *queue.Batch) error { return q.ExtendWaiting(ctx, b, time.Minute) },
				func(b *queue.Batch) error { return q.Extend(ctx, b, short) },
			}, 1},
			{[]func(b *queue.Batch) error{func(b *queue.Batch) error { return q.ExtendWaiting(ctx, b, short) }}, 1},
			// Handed off while it waited, and lost by the durable side: the next lease begins afresh.
			{[]func(b *queue.Batch) error{
				func(b *queue.Batch) error { return q.ExtendWaiting(ctx, b, time.Minute) },
				func(b *queue.Batch) error { return q.Handoff(ctx, b) },
				func(b *queue.Batch) error {
					_, err := q.Reconcile(ctx, newLedger().known, nil)
					return err
				},
			}, 1},
		} {
			b, err := q.Lease(ctx, queue.LeaseOptions{})
			must(t, err)
			for _, extend := range c.extend {
				must(t, extend(b))
			}
			b, err = q.Lease(ctx, queue.LeaseOptions{Duration: short})
			must(t, err)
			if b.Crashes != c.crashes || b.Failures != 0 {
				t.Fatalf("after death %d: crashes %d, failures %d, want %d, 0", death, b.Crashes, b.Failures, c.crashes)
			}
			must(t, q.Release(ctx, b, queue.ReleaseOptions{}))
		}
		_, err := q.Lease(ctx, queue.LeaseOptions{Duration: short})
		must(t, err)
		b, err := q.Lease(ctx, queue.LeaseOptions{})
		if err != nil || b.Crashes != 2 {
			t.Fatalf("the death of a worker in its own code: %+v, %v, want 2 crashes", b, err)
		}
		must(t, q.ExtendWaiting(ctx, b, 0))
		b.Attempt++
		if err := q.ExtendWaiting(ctx, b, 0); !errors.Is(err, queue.ErrLeaseLost) {
			t.Errorf("ExtendWaiting of a lost lease: %v, want ErrLeaseLost", err)
		}
		if err := q.ExtendWaiting(ctx, b, -1); !errors.Is(err, queue.ErrConfig) {
			t.Errorf("ExtendWaiting by -1: %v, want ErrConfig", err)
		}
	})
}
