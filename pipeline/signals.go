package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Signal says what has just happened in a pipeline.
type Signal string

// The signals.
const (
	SignalStaged    Signal = "staged"    // a batch waits for promotion
	SignalPromoted  Signal = "promoted"  // rows are in the durable table
	SignalRefreshed Signal = "refreshed" // views are fresh
)

// Signals wake the programs of a pipeline over Redis pub/sub, on the channel "{name}:signals", within a millisecond or so. A
// signal is a hint: one may be lost while a connection is down, so whoever listens also looks by itself, rarely. The truth is
// in the lists and tables. Signals is safe for concurrent use.
type Signals struct {
	client  rueidis.Client
	channel string
}

// NewSignals makes signals for the pipeline of that name, usually the queue's. The client stays the caller's.
func NewSignals(client rueidis.Client, name string) (*Signals, error) {
	if client == nil {
		return nil, errors.New("pipeline: NewSignals: the client is nil")
	}
	if name == "" || strings.ContainsAny(name, "{}") {
		return nil, fmt.Errorf("pipeline: NewSignals: the name is %q: must not be empty nor hold braces", name)
	}
	return &Signals{client: client, channel: "{" + name + "}:signals"}, nil
}

// Send publishes a signal. It costs one round trip.
func (s *Signals) Send(ctx context.Context, sig Signal) error {
	if err := s.client.Do(ctx, s.client.B().Publish().Channel(s.channel).Message(string(sig)).Build()).Error(); err != nil {
		return fmt.Errorf("pipeline: sending the signal %q: %w", sig, err)
	}
	return nil
}

// Listen calls f for each signal until ctx is done, then returns ctx's error. It connects again by itself; signals sent meanwhile are lost.
// f is called from one goroutine.
func (s *Signals) Listen(ctx context.Context, f func(Signal)) error {
	for {
		err := s.client.Receive(ctx, s.client.B().Subscribe().Channel(s.channel).Build(), func(m rueidis.PubSubMessage) {
			f(Signal(m.Message))
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, rueidis.ErrClosing) {
			return fmt.Errorf("pipeline: listening for signals: %w", err)
		}
		if sleep(ctx, time.Second) != nil {
			return ctx.Err()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
