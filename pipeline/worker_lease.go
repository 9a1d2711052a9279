package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/headrace/headrace/queue"
)

// heartbeat extends the batch's lease until end is called, but not forever: it stops when the chain
// has run for BatchTimeout. A batch that waits for Postgres is held as long as it takes. The
// context ends when the lease is lost or the time is up, with that as its cause.
func (w *Worker[T]) heartbeat(work context.Context, b *Batch) (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(work)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer w.redis.gone(b.ID)
		tick := time.NewTicker(w.cfg.LeaseDuration / 3)
		defer tick.Stop()
		limit := time.Now().Add(w.cfg.BatchTimeout)
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				if now.After(limit) && !b.staging.Load() {
					cancel(errBatchTimeout)
					return
				}
				err := w.flow.Queue.Extend(ctx, b.Batch, w.cfg.LeaseDuration)
				switch {
				case errors.Is(err, queue.ErrLeaseLost):
					cancel(err)
					return
				case err == nil:
					w.redis.succeeded(b.ID)
				case ctx.Err() == nil:
					w.redis.failed(b.ID, err, "step", "extend", "batch", b.ID)
				}
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}
