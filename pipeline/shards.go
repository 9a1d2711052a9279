package pipeline

import (
	"context"
	"fmt"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/queue"
)

// ShardsConfig configures [NewShards].
type ShardsConfig struct {
	// Key returns the id of a payload: the one that the chain's [Dedup] stage claims after it has
	// decoded the record. It decides the shard, so that equal ids meet in one window. Every producer
	// must place a record by its id; Dedup rejects a record that it meets in another shard, with the
	// code "wrong_shard". For a payload that the chain rejects anyway, any result will do.
	//
	// Nil, together with NoWindow: payloads go to the shards in turn.
	Key func(payload []byte) string
	// Queue, Window and Gate configure those of each shard. So Window.ExpectedIDs, Gate.High and
	// Queue.Push.MaxDepth are the share of one shard. Gate.Records is the depth of the shard's queue;
	// leave it, Gate.Bytes and Gate.LagKey empty.
	Queue  queue.Config
	Window dedup.Config
	Gate   backpressure.Config
	// NoWindow and NoGate leave them out.
	NoWindow, NoGate bool
}

// Shards holds all parts of a sharded pipeline on Redis: a queue over several slots of a cluster,
// and for each shard a dedup window, a gate and a signal channel in the slot of the shard. So every
// script stays on one node, and a batch and its records cost the same however many nodes there are.
//
// The fields fit into one [Flow], whose workers lease from all shards and whose promoter
// acknowledges each batch at its shard:
//
//	chain := pipeline.Then(pipeline.Decode(decode), pipeline.Dedup(s.Window, Row.ID))
//	flow := pipeline.Flow[Row]{
//		Queue: s.Queue, Chain: chain, Table: table, Signals: s.Signals, Gate: s.Gate,
//	}
//
// Or each shard gets a Flow, workers and a promoter of its own, with [Shards.Shard]: then the
// outage of a node holds up its shard alone, and each shard may have a Postgres of its own with a
// ledger of its own. A record is promoted exactly once in the Postgres of its shard. A shard must
// stay with its Postgres, because only that one has the ledger of its batches.
//
// This type is safe for concurrent use.
type Shards struct {
	Queue   *queue.Shards
	Window  *ShardWindow // nil: ShardsConfig.NoWindow
	Gate    *ShardGate   // nil: ShardsConfig.NoGate
	Signals *Signals
}

// Shard is one shard of a sharded pipeline. Its fields fit into a [Flow].
type Shard struct {
	Queue   *queue.Queue
	Window  *ShardWindow // nil: ShardsConfig.NoWindow
	Gate    Gate         // nil: ShardsConfig.NoGate
	Signals *Signals
}

// NewShards opens a queue of n shards with the windows, gates and signals of the shards. See
// [queue.NewShards] for the names of the shards and for changes of n. The keys are those of the
// packages, under the tag of each shard, and {name}:queue:shards. It never closes client.
func NewShards(ctx context.Context, client rueidis.Client, name string, n int, cfg ShardsConfig) (*Shards, error) {
	switch {
	case redisx.IsNil(client):
		return nil, fmt.Errorf("%w: the client of NewShards is nil, must be a rueidis.Client", ErrConfig)
	case cfg.Key == nil && !cfg.NoWindow:
		return nil, fmt.Errorf("%w: ShardsConfig.Key is nil, must return the id of a payload: otherwise equal ids would be in different windows", ErrConfig)
	case len(cfg.Gate.Records) > 0 || len(cfg.Gate.Bytes) > 0 || cfg.Gate.LagKey != "":
		return nil, fmt.Errorf("%w: ShardsConfig.Gate has keys of its own, must be without: each shard has others", ErrConfig)
	}
	q, err := queue.NewShards(ctx, client, name, n, cfg.Key, cfg.Queue)
	if err != nil {
		return nil, err
	}
	s := &Shards{Queue: q}
	var names []string
	for _, shard := range q.Queues() {
		names = append(names, shard.Name())
	}
	if s.Signals, err = newShardSignals(client, name, names); err != nil {
		return nil, err
	}
	if !cfg.NoWindow {
		if s.Window, err = openShardWindow(ctx, client, q, cfg.Window); err != nil {
			return nil, err
		}
	}
	if !cfg.NoGate {
		if s.Gate, err = openShardGate(ctx, client, q, cfg.Gate); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Len returns the number of shards.
func (s *Shards) Len() int { return len(s.Queue.Queues()) }

// Shard returns the parts of shard i, from 0, for a Flow of its own.
func (s *Shards) Shard(i int) Shard {
	one := Shard{Queue: s.Queue.Queues()[i], Signals: s.Signals.of(s.Queue.Queues()[i].Name())}
	if s.Window != nil {
		one.Window = s.Window.only(i)
	}
	if s.Gate != nil {
		one.Gate = s.Gate.gates[i]
	}
	return one
}

// Push pushes each payload to the shard of its id, as soon as the gate of that shard has room, and
// to all shards at once. One push has at most Gate.High - Gate.Low payloads for a shard. The error
// of a push that has failed in part is a [*queue.ShardsPushError], which names the payloads to push
// again.
func (s *Shards) Push(ctx context.Context, payloads ...[]byte) error {
	if s.Gate == nil {
		return s.Queue.Push(ctx, payloads...)
	}
	return s.Queue.PushGated(ctx, s.Gate.acquire, payloads...)
}
