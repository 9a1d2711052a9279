package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/queue"
)

// drainInterval is how often Drain polls without a signal.
const drainInterval = 200 * time.Millisecond

// Drain waits until every record that was accepted is accounted for: none is ready, delayed or in
// flight. Stop the producers first, and keep workers and a promoter running. A signal of a
// promotion wakes it; it also polls. If ctx ends first, the error wraps that of ctx and states how
// many records are left. If the pipeline is stuck, it also wraps [ErrStuck] with the reason. An
// error of the queue that waiting cannot end, such as a key of a wrong type or a missing
// permission, is returned at once. While Redis is unavailable, Drain waits.
func (f Flow[T]) Drain(ctx context.Context) error {
	f, err := f.validate()
	if err != nil {
		return err
	}
	wake := make(chan struct{}, 1)
	if f.Signals != nil {
		listening, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		defer func() { stop(); <-ended }()
		go func() {
			defer close(ended)
			_ = f.Signals.Listen(listening, func(s Signal) {
				if s == SignalPromoted {
					poke(wake)
				}
			})
		}()
	}
	tick := time.NewTicker(drainInterval)
	defer tick.Stop()
	var last *queue.Stats // nil: the queue has not answered
	var failed error      // the last answer of the queue
	for {
		var s queue.Stats
		if s, failed = f.Queue.Stats(ctx); failed == nil {
			if last = &s; s.Depth() == 0 {
				return nil
			}
		} else if isPermanent(failed) {
			return fmt.Errorf("pipeline: not drained: %w", failed)
		}
		select {
		case <-ctx.Done():
			return f.undrained(ctx, last, failed)
		case <-wake:
		case <-tick.C:
		}
	}
}

// undrained describes what is left when a drain was cut off.
func (f Flow[T]) undrained(ctx context.Context, s *queue.Stats, failed error) error {
	left := "the queue has not answered"
	if s != nil {
		left = fmt.Sprintf("%d ready, %d delayed, %d in flight", s.Ready, s.Delayed, s.InFlight)
	}
	err := fmt.Errorf("pipeline: not drained: %s: %w", left, ctx.Err())
	if failed != nil && !errors.Is(failed, ctx.Err()) {
		return errors.Join(err, failed)
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), stallTimeout)
	defer cancel()
	books, berr := f.BooksSince(late, time.Now()) // the stalls are wanted, not the sums
	if berr != nil {
		return err
	}
	if stuck := books.Stuck(); stuck != nil {
		return errors.Join(err, stuck)
	}
	return err
}
