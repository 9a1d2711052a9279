package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
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
//
// The signals of [NewShards] are on a channel for each shard, "{shard}:signals", and one for the
// whole; each has its stalls too, and the Books of a flow read those of its own queue. On a cluster
// these are sharded channels (SPUBLISH, SSUBSCRIBE), so a signal costs one node
// and not all of them.
//
// Signals is safe for concurrent use.
type Signals struct {
	client  rueidis.Client
	channel string
	stalls  string
	shards  map[string]*Signals // by name of the shard; nil: there are none
	sharded bool                // the channel stays on the node of its slot
}

// NewSignals returns the signals of the pipeline with the given name, usually that of its queue. It
// performs no I/O. It never closes client.
func NewSignals(client rueidis.Client, name string) (*Signals, error) {
	if redisx.IsNil(client) {
		return nil, fmt.Errorf("%w: the client of NewSignals is nil, must be a rueidis.Client", ErrConfig)
	}
	if err := redisx.CheckName(name); err != nil {
		return nil, fmt.Errorf("%w: NewSignals: %w", ErrConfig, err)
	}
	return &Signals{client: client, channel: "{" + name + "}:signals", stalls: "{" + name + "}:signals:stalls"}, nil
}

// newShardSignals returns the signals of a pipeline with shards.
func newShardSignals(client rueidis.Client, name string, shards []string) (*Signals, error) {
	s, err := NewSignals(client, name)
	if err != nil {
		return nil, err
	}
	s.sharded, s.shards = client.Mode() == rueidis.ClientModeCluster, map[string]*Signals{}
	for _, shard := range shards {
		one, err := NewSignals(client, shard)
		if err != nil {
			return nil, err
		}
		one.sharded = s.sharded
		s.shards[shard] = one
	}
	return s, nil
}

// of returns the signals of a shard, or s if there are no shards.
func (s *Signals) of(queue string) *Signals {
	if one := s.shards[queue]; one != nil {
		return one
	}
	return s
}

// Send publishes a signal. It costs one round trip.
func (s *Signals) Send(ctx context.Context, sig Signal) error {
	publish := s.client.B().Publish().Channel(s.channel).Message(string(sig)).Build
	if s.sharded {
		publish = s.client.B().Spublish().Channel(s.channel).Message(string(sig)).Build
	}
	if err := s.client.Do(ctx, publish()).Error(); err != nil {
		return fmt.Errorf("pipeline: could not send the signal %q: %w", sig, err)
	}
	return nil
}

// Listen calls f for each signal until ctx is done, then returns the error of ctx. It reconnects.
// Signals sent while it is not connected are lost. It calls f from one goroutine at a time.
func (s *Signals) Listen(ctx context.Context, f func(Signal)) error {
	if f == nil {
		return fmt.Errorf("%w: the function of Listen is nil, must receive the signals", ErrConfig)
	}
	if s.shards == nil {
		return s.listen(ctx, f)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var calls sync.Mutex
	one := func(sig Signal) {
		calls.Lock()
		defer calls.Unlock()
		f(sig)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ended := make(chan error, len(s.shards)+1)
	wg.Go(func() { ended <- s.listen(ctx, one) })
	for _, shard := range s.shards {
		wg.Go(func() { ended <- shard.listen(ctx, one) })
	}
	err := <-ended // ctx or the client has ended, and so have the others
	cancel()
	return err
}

// listen listens on the one channel of s.
func (s *Signals) listen(ctx context.Context, f func(Signal)) error {
	for {
		subscribe := s.client.B().Subscribe().Channel(s.channel).Build
		if s.sharded {
			subscribe = s.client.B().Ssubscribe().Channel(s.channel).Build
		}
		err := s.client.Receive(ctx, subscribe(), func(m rueidis.PubSubMessage) { f(Signal(m.Message)) })
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

// signalStaged sends the hint that a batch of a queue was staged.
func (f Flow[T]) signalStaged(ctx context.Context, queue string) {
	if f.Signals != nil {
		_ = f.Signals.of(queue).Send(ctx, SignalStaged) // a hint, as above
	}
}
