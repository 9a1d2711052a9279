package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/headrace/headrace/internal/redisx"
)

// Service is a part of a program that runs until its context ends: a [Worker], a [Promoter], a
// [Relay], a lookup.Table, a matview.Refresher, or a [ServiceFunc].
type Service interface {
	Run(ctx context.Context) error
}

// ServiceFunc makes a Service of a function.
type ServiceFunc func(ctx context.Context) error

// Run calls f.
func (f ServiceFunc) Run(ctx context.Context) error { return f(ctx) }

// Run runs the parts of a program. List them in the order in which records pass through them, and
// services that the others need last: producers, workers, promoter, lookups. All run at once. When
// ctx is done, Run stops them in that order: the context of a service ends when the service before
// it has returned. So workers finish their batches while the promoter and their lookups still run.
//
// When a service returns an error or panics, the others are stopped in the same way, and Run
// returns that error. A service that returns nil has finished; the others continue. Run returns
// when all have returned. The error of a context that Run has ended counts as nil, unless it also
// wraps [ErrStuck], as that of [Flow.Drain] does.
func Run(ctx context.Context, services ...Service) error {
	for i, s := range services {
		if redisx.IsNil(s) {
			return fmt.Errorf("%w: service %d of Run is nil, must be a Service", ErrConfig, i)
		}
	}
	var (
		once   sync.Once
		first  error
		failed = make(chan struct{})
		ends   = make([]context.CancelFunc, len(services))
		ended  = make([]chan struct{}, len(services))
	)
	for i := len(services) - 1; i >= 0; i-- {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		ends[i], ended[i] = cancel, make(chan struct{})
		defer cancel()
		go func() {
			defer close(ended[i])
			err := runService(own, services[i])
			if err == nil || own.Err() != nil && errors.Is(err, own.Err()) && !errors.Is(err, ErrStuck) {
				return
			}
			once.Do(func() {
				kind, _, _ := strings.Cut(fmt.Sprintf("%T", services[i]), "[") // without the type of its rows
				first = fmt.Errorf("pipeline: service %d (%s): %w", i, kind, err)
				close(failed)
			})
		}()
	}
	all := make(chan struct{})
	go func() {
		defer close(all)
		for _, e := range ended {
			<-e
		}
	}()
	select {
	case <-ctx.Done():
	case <-failed:
	case <-all:
	}
	for i := range services {
		ends[i]()
		<-ended[i]
	}
	<-all
	return first
}

// runService turns a panic of a service into its error.
func runService(ctx context.Context, s Service) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = newPanicError("a service", p)
		}
	}()
	return s.Run(ctx)
}

// Every is a service that calls f at once and then at every interval, such as the refresh of views
// or the closer of windows. An error is logged, with the name, and f is called again: it never ends
// the service. log nil: slog.Default(). Calls of f do not overlap. When the service is stopped
// during a call, the context of the call ends.
func Every(interval time.Duration, name string, log *slog.Logger, f func(ctx context.Context) error) Service {
	_, log = sinks(nil, log)
	return ServiceFunc(func(ctx context.Context) error {
		if err := (durationField{"the interval of Every", interval, time.Millisecond, maxDuration}).validate(); err != nil {
			return err
		}
		if f == nil {
			return fmt.Errorf("%w: the function of Every is nil, must be what to call", ErrConfig)
		}
		failing := newOutage(log, name)
		defer failing.gone("")
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for ctx.Err() == nil {
			if err := f(ctx); err == nil {
				failing.succeeded("")
			} else if ctx.Err() == nil {
				failing.failed("", err)
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
		return nil
	})
}
