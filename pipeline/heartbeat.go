package pipeline

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/headrace/headrace/queue"
)

var errHeldTooLong = errors.New("pipeline: the batch was held longer than WorkerConfig.Hold")

// heartbeat extends the batch's lease until end is called, but not for ever: a transform that hangs is let go. A batch that waits for Postgres is
// held as long as it takes. The context ends when the lease is lost or the time is up, with that as its cause.
func (w *Worker[T]) heartbeat(work context.Context, b *Batch) (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(work)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(w.cfg.LeaseDuration / 3)
		defer tick.Stop()
		limit := time.Now().Add(w.cfg.BatchTimeout)
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				if now.After(limit) && !b.staging.Load() {
					cancel(errHeldTooLong)
					return
				}
				err := w.flow.Queue.Extend(ctx, b.Batch, w.cfg.LeaseDuration)
				if errors.Is(err, queue.ErrLeaseLost) {
					cancel(err)
					return
				}
				if err != nil && ctx.Err() == nil {
					w.cfg.Logger.Warn("extending a lease failed; trying again", "batch", b.ID, "err", err)
				}
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// backoff gives growing pauses with jitter, from 50 ms to 5 s.
type backoff struct{ d time.Duration }

func (b *backoff) next() time.Duration {
	b.d = min(max(2*b.d, 50*time.Millisecond), 5*time.Second)
	return b.d/2 + rand.N(b.d/2)
}
