package window

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/headrace/headrace/internal/errorlog"
	"github.com/headrace/headrace/internal/redisx"
)

const (
	runBatch      = 16
	settleTimeout = 5 * time.Second
)

// Handler handles a closed window. The context is cancelled when the lease expires, with the cause
// [ErrLeaseLost]; [Store.Extend] extends it. It reports no deadline, because the deadline can move.
// It does not end with the context of [Store.Run].
type Handler func(ctx context.Context, c ClosedWindow) error

// Run closes windows until ctx is done, and calls handle for each, one after the other. When handle
// returns nil, the window is done. An error or a panic counts as a failure: the window is due again
// after Config.Backoff, and moves to the dead-letter list after Config.MaxFailures. When ctx ends,
// Run finishes the current window, releases the others and returns nil. Any number of programs may
// call Run. It returns an error for a configuration without tumbling windows, and when the program
// has closed the client. It logs other errors to Config.Logger and continues.
func (s *Store) Run(ctx context.Context, handle Handler) error {
	if handle == nil {
		return fmt.Errorf("%w: Run: the Handler is nil, must be a function", ErrConfig)
	}
	if err := s.tumbling(); err != nil {
		return err
	}
	var client redisx.Closed
	log := errorlog.New(s.cfg.Logger, "window: ", "window", s.name)
	for ctx.Err() == nil {
		closed, err := s.CloseDue(ctx, runBatch)
		if client.By(err) {
			return fmt.Errorf("window: the closer of %s has stopped: %w", s.name, err)
		}
		if ctx.Err() == nil {
			log.Report(ctx, "closing windows", err)
		}
		for _, c := range closed {
			s.handle(ctx, c, handle)
		}
		if len(closed) < runBatch || err != nil {
			redisx.Sleep(ctx, s.cfg.PollInterval)
		}
	}
	return nil
}

func (s *Store) handle(ctx context.Context, c ClosedWindow, handle Handler) {
	// The end of ctx does not cut off settling: Redis must learn what is done.
	settle := func(f func(context.Context) error) error {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
		defer cancel()
		err := f(sctx)
		if err != nil {
			s.log(ctx, c, "could not settle a window", err)
		}
		return err
	}
	if ctx.Err() != nil {
		_ = settle(func(ctx context.Context) error { return s.Release(ctx, c, ReleaseOptions{}) })
		return
	}
	if time.Until(c.Deadline) < s.cfg.LeaseDuration/2 { // it waited for those before it
		deadline := time.Now().Add(s.cfg.LeaseDuration - time.Millisecond)
		if settle(func(ctx context.Context) error { return s.Extend(ctx, c, s.cfg.LeaseDuration) }) != nil {
			return
		}
		c.Deadline = deadline
	}
	l := newLeaseContext(ctx, c.Deadline)
	s.leases.Store(c.lease(), l)
	err := called(l.ctx, handle, c)
	s.leases.Delete(c.lease())
	l.stop()
	if err == nil {
		_ = settle(func(ctx context.Context) error { return s.Done(ctx, c) })
		return
	}
	buried := false
	_ = settle(func(ctx context.Context) (err2 error) {
		buried, err2 = s.settle(ctx, "release", c, 0, cmp.Or(cut(err.Error()), "the handler failed"))
		return err2
	})
	text := "a handler failed"
	if buried {
		text = "a handler failed for the last time: the window is in the dead-letter list"
	}
	s.log(ctx, c, text, err)
}

// called calls the handler. Its panic is an error, with the stack.
func called(ctx context.Context, handle Handler, c ClosedWindow) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the handler panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return handle(ctx, c)
}

func (s *Store) log(ctx context.Context, c ClosedWindow, text string, err error) {
	s.cfg.Logger.ErrorContext(ctx, "window: "+text, "window", s.name, "key", c.Key, "start", c.Start, "attempt", c.Attempt, "error", err)
}

// leaseContext is a context that is cancelled at the end of a lease, which can move.
type leaseContext struct {
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
}

func newLeaseContext(ctx context.Context, deadline time.Time) *leaseContext {
	l := &leaseContext{}
	l.ctx, l.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	l.timer = time.AfterFunc(time.Until(deadline), func() { l.cancel(ErrLeaseLost) })
	return l
}

// endAt moves the end of the lease.
func (l *leaseContext) endAt(deadline time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer.Reset(time.Until(deadline))
}

func (l *leaseContext) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer.Stop()
	l.cancel(errors.New("window: the handler has returned"))
}
