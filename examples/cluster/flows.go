package main

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// orderID is the id of a payload, as the chain computes it. What cannot be decoded is rejected in
// any shard.
func orderID(payload []byte) string {
	o, _ := orders.Decode(payload) // of a bad order, what could be read
	return o.ID
}

// openShards opens a shard for each master. depth is the limit of each gate, 0: orders.Depth.
func openShards(ctx context.Context, n *nodes, depth int) (*pipeline.Shards, error) {
	return pipeline.NewShards(ctx, n.client, orders.Name, masters, pipeline.ShardsConfig{
		Key:    orderID,
		Window: dedup.Config{Window: orders.DedupWindow},
		Gate:   backpressure.Config{High: int64(cmp.Or(depth, orders.Depth))},
	})
}

// part is what one machine of a real cluster would run: the worker and the promoter of a shard.
type part struct {
	shard    pipeline.Shard
	database int
	app      *orders.App
	flow     pipeline.Flow[orders.Row]
	services []pipeline.Service
}

// openPart wires a shard with its Postgres. Several shards may share one; each promoter
// acknowledges the batches of its own shard.
func openPart(ctx context.Context, n *nodes, s *pipeline.Shards, i int, cfg pipeline.WorkerConfig) (*part, error) {
	p := &part{shard: s.Shard(i), database: i % databases}
	var err error
	if p.app, err = orders.Open(ctx, n.client, n.pools[p.database], p.shard.Queue.Name()); err != nil {
		return nil, err
	}
	if err := p.app.Ensure(ctx); err != nil {
		return nil, err
	}
	p.flow = pipeline.Flow[orders.Row]{
		Queue: p.shard.Queue,
		Chain: pipeline.Then3(
			pipeline.Decode(orders.Decode),
			pipeline.Dedup(p.shard.Window, orders.ID),
			pipeline.Lookup("enrich", p.app.Catalog, orders.Enrich),
		),
		Table:   p.app.Table,
		Signals: p.shard.Signals,
		Gate:    p.shard.Gate,
	}
	cfg.Name = p.shard.Queue.Name()
	worker, err := pipeline.NewWorker(p.flow, cfg)
	if err != nil {
		return nil, err
	}
	promoter, err := pipeline.NewPromoter(p.flow, pipeline.PromoterConfig{Name: cfg.Name})
	if err != nil {
		return nil, err
	}
	p.services = []pipeline.Service{worker, promoter, pipeline.ServiceFunc(p.app.RunLookups)}
	return p, nil
}

// pushPause is the pause before what a node has not taken is pushed again.
const pushPause = 100 * time.Millisecond

// pushAll pushes payloads in chunks. What one node does not take, or perhaps has taken, is pushed
// again until the node is back: the dedup stage drops what has arrived twice. It returns how many
// records it has pushed again without knowing whether they had arrived.
func pushAll(ctx context.Context, s *pipeline.Shards, payloads iter.Seq[[]byte]) (repeated int, err error) {
	next, stop := iter.Pull(payloads)
	defer stop()
	for {
		chunk := make([][]byte, 0, orders.PushSize)
		for len(chunk) < cap(chunk) {
			p, ok := next()
			if !ok {
				break
			}
			chunk = append(chunk, p)
		}
		if len(chunk) == 0 {
			return repeated, nil
		}
		for since := time.Now(); len(chunk) > 0; {
			err := s.Push(ctx, chunk...)
			if err == nil {
				break
			}
			var failed *queue.ShardsPushError
			if !errors.As(err, &failed) || ctx.Err() != nil || time.Since(since) > stuck {
				return repeated, err
			}
			repeated += len(failed.Unknown)
			again := make([][]byte, 0, len(failed.Rest)+len(failed.Unknown))
			for _, i := range slices.Concat(failed.Rest, failed.Unknown) {
				again = append(again, chunk[i])
			}
			chunk = again
			select {
			case <-time.After(pushPause):
			case <-ctx.Done():
				return repeated, ctx.Err()
			}
		}
	}
}
