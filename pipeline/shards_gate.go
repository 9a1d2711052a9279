package pipeline

import (
	"context"
	"errors"
	"sync"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/queue"
)

// ShardGate holds the gates of a sharded pipeline, one in front of each shard. [Shards.Push] asks
// them for room. Within one push, a full shard holds back the records of that shard alone; the push
// returns when the last shard has its part. This type is safe for concurrent use.
type ShardGate struct {
	gates []*backpressure.Gate
	of    map[string]*backpressure.Gate // by name of the shard
}

func openShardGate(ctx context.Context, client rueidis.Client, q *queue.Shards, cfg backpressure.Config) (*ShardGate, error) {
	g := &ShardGate{of: map[string]*backpressure.Gate{}}
	for _, shard := range q.Queues() {
		cfg.Records = backpressure.SourcesOf(shard)
		one, err := backpressure.New(ctx, client, shard.Name(), cfg)
		if err != nil {
			return nil, err
		}
		g.gates, g.of[shard.Name()] = append(g.gates, one), one
	}
	return g, nil
}

// Gates returns the gates, in the order of the shards.
func (g *ShardGate) Gates() []*backpressure.Gate { return g.gates }

// Notify is [backpressure.Gate.Notify] for all gates, at once. It is one command on each shard.
func (g *ShardGate) Notify(ctx context.Context) error {
	errs := make([]error, len(g.gates))
	var wg sync.WaitGroup
	for i, gate := range g.gates {
		wg.Go(func() { errs[i] = gate.Notify(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// acquire waits for room in front of a shard.
func (g *ShardGate) acquire(ctx context.Context, shard *queue.Queue, records int, _ int64) (release func(), err error) {
	room, err := g.of[shard.Name()].Acquire(ctx, records)
	if err != nil {
		return nil, err
	}
	return func() { _ = room.Release(ctx) }, nil // one that is not released expires
}
