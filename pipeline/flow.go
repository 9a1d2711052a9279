package pipeline

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Queue is the part of a queue that workers and promoters use. *[queue.Queue] implements it, and
// *[queue.Shards] for a queue over several nodes.
type Queue interface {
	Name() string
	Lease(ctx context.Context, o queue.LeaseOptions) (*queue.Batch, error)
	Extend(ctx context.Context, b *queue.Batch, d time.Duration) error
	ExtendWaiting(ctx context.Context, b *queue.Batch, d time.Duration) error
	Handoff(ctx context.Context, b *queue.Batch) error
	Release(ctx context.Context, b *queue.Batch, o queue.ReleaseOptions) error
	AckWith(ctx context.Context, acks ...queue.Ack) (int, error)
	Settle(ctx context.Context, b *queue.Batch, s queue.Resolution) error
	Reconcile(ctx context.Context, fates queue.FatesFunc, settle queue.SettleFunc) (queue.ReconcileResult, error)
	Stats(ctx context.Context) (queue.Stats, error)
	HandedOff(ctx context.Context) ([]queue.HandedOff, error)
}

// Table is the part of a staged table that workers and promoters use. *[staging.Table] implements
// it, and *[staging.TableGroup] for several tables.
type Table[T any] interface {
	Stage(ctx context.Context, l staging.Load[T]) (staging.Outcome, error)
	Void(ctx context.Context, b staging.Batch) (staging.Fate, error)
	Fates(ctx context.Context, ids []string) ([]staging.Fate, error)
	RejectsByBatch(ctx context.Context, ids []string) (map[string][]staging.Reject, error)
	Promote(ctx context.Context, o staging.PromoteOptions) (staging.PromoteResult, error)
	Epoch(ctx context.Context) (string, error)
	BooksSince(ctx context.Context, since time.Time) (staging.Books, error)
}

// Gate is notified when acknowledged records have made room. *[backpressure.Gate] implements it,
// and *[ShardGate].
type Gate interface {
	Notify(ctx context.Context) error
}

// Flow is what the programs of one pipeline share. Give the same Flow to the workers and to the
// promoter.
type Flow[T any] struct {
	// Queue is the queue that producers push to.
	Queue Queue
	// Chain turns payloads into rows. Claims of rejected records are returned to the window of its
	// [Dedup] stage, if it has one. That window must have the name of the queue. A *[queue.Shards]
	// needs the *[ShardWindow] of [NewShards].
	Chain Stage[[]byte, T]
	// Table is the destination of the rows.
	Table Table[T]
	// Signals wake the next program within milliseconds. Pipelines may share them, such as those of
	// queues that feed one table. Nil: each program polls at its PollInterval.
	Signals *Signals
	// Gate wakes waiting producers when acknowledged records have made room. A *[backpressure.Gate]
	// that measures keys must be that of the queue. One that only brakes by memory, or by a lag of the
	// caller's, may serve several pipelines. Nil, also a nil pointer in the interface: no producer is
	// notified.
	Gate Gate
}

// validate returns the flow without nil pointers in optional fields, or an error that wraps
// ErrConfig.
func (f Flow[T]) validate() (Flow[T], error) {
	if redisx.IsNil(f.Gate) {
		f.Gate = nil
	}
	switch {
	case redisx.IsNil(f.Queue):
		return f, fmt.Errorf("%w: Flow.Queue is nil, must be the *queue.Queue that the producers push to", ErrConfig)
	case f.Queue.Name() == "":
		return f, fmt.Errorf("%w: Flow.Queue has no name, must come from queue.New", ErrConfig)
	case f.Chain.run == nil:
		return f, fmt.Errorf("%w: Flow.Chain is empty, must begin with Decode", ErrConfig)
	case f.Chain.lacks != "":
		return f, fmt.Errorf("%w: %s", ErrConfig, f.Chain.lacks)
	case redisx.IsNil(f.Table):
		return f, fmt.Errorf("%w: Flow.Table is nil, must be the *staging.Table that receives the rows", ErrConfig)
	case f.Chain.dedups && f.Chain.window == nil:
		return f, fmt.Errorf("%w: the window of the Dedup stage in Flow.Chain is nil, must be a *dedup.Deduplicator", ErrConfig)
	case f.Signals != nil && f.Signals.client == nil:
		return f, fmt.Errorf("%w: Flow.Signals is empty, must come from NewSignals", ErrConfig)
	}
	if t, ok := f.Table.(*staging.Table[T]); ok && t.Name() == "" {
		return f, fmt.Errorf("%w: Flow.Table is empty, must come from staging.New", ErrConfig)
	}
	if t, ok := f.Table.(interface{ Validate() error }); ok { // a group
		if err := t.Validate(); err != nil {
			return f, fmt.Errorf("%w: Flow.Table: %w", ErrConfig, err)
		}
	}
	_, sharded := f.Queue.(*queue.Shards)
	if _, one := f.Chain.window.(*dedup.Deduplicator); sharded && one {
		return f, fmt.Errorf("%w: the window of the Dedup stage in Flow.Chain is one window, must be the Window of NewShards for a queue with shards", ErrConfig)
	}
	if w := f.Chain.window; w != nil && w.Name() != f.Queue.Name() {
		return f, fmt.Errorf("%w: the window of the Dedup stage in Flow.Chain is named %q, must be %q like the queue, to share its hash slot",
			ErrConfig, w.Name(), f.Queue.Name())
	}
	return f, f.checkGate()
}

// checkGate returns an error if the gate measures another queue: its producers would be woken, and
// those of this queue never.
func (f Flow[T]) checkGate() error {
	shards, sharded := f.Queue.(*queue.Shards)
	switch g := f.Gate.(type) {
	case *backpressure.Gate:
		keys := g.SourceKeys()
		switch {
		case g.Name() == "":
			return fmt.Errorf("%w: Flow.Gate is empty, must come from backpressure.New", ErrConfig)
		case len(keys) == 0: // it measures the server, or what the caller measures
		case sharded:
			return fmt.Errorf("%w: Flow.Gate measures %s, must be the Gate of NewShards for a queue with shards", ErrConfig, keys[0])
		case g.Name() != f.Queue.Name():
			return fmt.Errorf("%w: Flow.Gate is named %q and measures %s, must be the gate of the queue %q", ErrConfig, g.Name(), keys[0], f.Queue.Name())
		}
	case *ShardGate:
		names := []string{f.Queue.Name()}
		if sharded {
			names = nil
			for _, shard := range shards.Queues() {
				names = append(names, shard.Name())
			}
		}
		for _, name := range names {
			if g.of[name] == nil {
				return fmt.Errorf("%w: Flow.Gate has no gate for %q, must be the Gate of the NewShards that opened the queue", ErrConfig, name)
			}
		}
	}
	return nil
}
