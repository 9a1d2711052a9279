package window

import (
	"context"
	"fmt"
	"time"
)

const (
	runBatch    = 16
	runRetry    = time.Second
	settleGrace = 5 * time.Second
)

// Run closes windows until ctx is done, and calls handle for each. When handle returns nil the window is done; after an error it comes
// again, to whoever is next. The context of handle ends at the lease's deadline, not with ctx: when ctx ends, the window in hand is
// finished and the others are released. Any number of programs may run it. It returns nil after ctx, and an error only for a
// configuration without tumbling windows; what goes wrong meanwhile is told to Config.OnError and tried again.
func (w *Store) Run(ctx context.Context, handle func(ctx context.Context, c ClosedWindow) error) error {
	if w.cfg.Size == 0 {
		return fmt.Errorf("window: %s: %w", w.name, ErrNoTumbling)
	}
	for ctx.Err() == nil {
		closed, err := w.CloseDue(ctx, runBatch)
		if ctx.Err() == nil && err != nil {
			w.cfg.OnError(err)
		}
		for _, c := range closed {
			w.handle(ctx, c, handle)
		}
		if len(closed) < runBatch || err != nil {
			wait := time.NewTimer(w.cfg.PollInterval)
			select {
			case <-wait.C:
			case <-ctx.Done():
			}
			wait.Stop()
		}
	}
	return nil
}

func (w *Store) handle(ctx context.Context, c ClosedWindow, handle func(ctx context.Context, c ClosedWindow) error) {
	run := ctx
	// Settling is not cut off by the end of ctx: what is done must be told.
	settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleGrace)
	if run.Err() != nil {
		defer cancel()
		w.report(w.Release(settle, c, 0))
		return
	}
	if time.Until(c.Deadline) < w.cfg.LeaseDuration/2 { // it waited for those before it
		deadline := time.Now().Add(w.cfg.LeaseDuration)
		if err := w.Extend(settle, c, w.cfg.LeaseDuration); err != nil {
			cancel()
			w.report(err)
			return
		}
		c.Deadline = deadline
	}
	cancel()
	hctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), c.Deadline)
	err := handle(hctx, c)
	cancel()
	settle, cancel = context.WithTimeout(context.WithoutCancel(ctx), settleGrace)
	defer cancel()
	if err != nil {
		w.report(fmt.Errorf("window: %s: handle %q at %v, attempt %d: %w", w.name, c.Key, c.Start, c.Attempt, err))
		w.report(w.Release(settle, c, min(runRetry, w.cfg.LeaseDuration)))
		return
	}
	w.report(w.Done(settle, c))
}

func (w *Store) report(err error) {
	if err != nil {
		w.cfg.OnError(err)
	}
}
