package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Signal names what has just happened in a pipeline.
type Signal string

// The signals.
const (
	SignalStaged    Signal = "staged"    // a batch waits for promotion
	SignalPromoted  Signal = "promoted"  // rows are in the durable table
	SignalRefreshed Signal = "refreshed" // views are fresh
)

// Signals wake the programs of a pipeline over Redis pub/sub, on the channel "{name}:signals",
// within about a millisecond. A signal is a hint. It may be lost while a connection is down, so
// every listener also polls, at longer intervals. The lists and tables are authoritative. A program
// that is stuck reports that in the hash "{name}:signals:stalls", where [Flow.Books] finds it.
// Signals is safe for concurrent use.
type Signals struct {
	client  rueidis.Client
	channel string
	stalls  string
}

// NewSignals returns the signals of the pipeline with the given name, usually that of its queue. It
// performs no I/O. It never closes client.
func NewSignals(client rueidis.Client, name string) (*Signals, error) {
	if isNil(client) {
		return nil, fmt.Errorf("%w: the client of NewSignals is nil", ErrConfig)
	}
	if name == "" || strings.ContainsAny(name, "{}") {
		return nil, fmt.Errorf("%w: the name of NewSignals is %q, must be non-empty without braces", ErrConfig, name)
	}
	return &Signals{client: client, channel: "{" + name + "}:signals", stalls: "{" + name + "}:signals:stalls"}, nil
}

// Send publishes a signal. It costs one round trip.
func (s *Signals) Send(ctx context.Context, sig Signal) error {
	if err := s.client.Do(ctx, s.client.B().Publish().Channel(s.channel).Message(string(sig)).Build()).Error(); err != nil {
		return fmt.Errorf("pipeline: could not send the signal %q: %w", sig, err)
	}
	return nil
}

// Listen calls f for each signal until ctx is done, then returns the error of ctx. It reconnects.
// Signals sent while it is not connected are lost. It calls f from one goroutine.
func (s *Signals) Listen(ctx context.Context, f func(Signal)) error {
	for {
		err := s.client.Receive(ctx, s.client.B().Subscribe().Channel(s.channel).Build(), func(m rueidis.PubSubMessage) {
			f(Signal(m.Message))
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, rueidis.ErrClosing) {
			return fmt.Errorf("pipeline: could not listen for signals: %w", err)
		}
		if sleep(ctx, time.Second) != nil {
			return ctx.Err()
		}
	}
}

// signal sends a hint, if the flow has signals.
func (f Flow[T]) signal(ctx context.Context, sig Signal) {
	if f.Signals != nil {
		_ = f.Signals.Send(ctx, sig) // a hint: every receiver polls too
	}
}
