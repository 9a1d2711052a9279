package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/queue"
)

// ShardWindow is the dedup window of a sharded pipeline: a window for each shard, in its slot. The
// id decides the window. It is a [Deduplicator] for [Dedup], and [Flow.Find] looks in it. A claim
// costs what it costs in one window, as all ids of a batch are claimed in the window of its shard.
// This type is safe for concurrent use.
type ShardWindow struct {
	name    string
	queue   *queue.Shards
	windows []*dedup.Deduplicator
	shard   map[string]int // by name
	own     int            // the shard of a Flow of its own; -1: all
}

func openShardWindow(ctx context.Context, client rueidis.Client, q *queue.Shards, cfg dedup.Config) (*ShardWindow, error) {
	w := &ShardWindow{name: q.Name(), queue: q, shard: map[string]int{}, own: -1}
	for i, shard := range q.Queues() {
		one, err := dedup.New(ctx, client, shard.Name(), cfg)
		if err != nil {
			return nil, err
		}
		w.windows, w.shard[shard.Name()] = append(w.windows, one), i
	}
	return w, nil
}

// only returns the same windows for the Flow of one shard.
func (w *ShardWindow) only(i int) *ShardWindow {
	one := *w
	one.name, one.own = w.queue.Queues()[i].Name(), i
	return &one
}

// Name returns the name of the queue: that of all shards, or, for a window from [Shards.Shard],
// that of its shard.
func (w *ShardWindow) Name() string { return w.name }

// Of returns the window in which an id is claimed.
func (w *ShardWindow) Of(id string) *dedup.Deduplicator { return w.windows[w.queue.ShardOf(id)] }

// Claim is [dedup.Deduplicator.Claim] in the window of the batch's shard. The ids must belong to
// that shard; Dedup rejects the records of others.
func (w *ShardWindow) Claim(ctx context.Context, b dedup.Batch, pos []int32, ids []string) ([]dedup.Verdict, error) {
	tag, _, _ := strings.Cut(strings.TrimPrefix(b.Guard, "{"), "}")
	i, ok := w.shard[tag]
	if !ok {
		return nil, fmt.Errorf("%w: Batch.Guard %q is not of a shard of %s", dedup.ErrBatch, b.Guard, w.queue.Name())
	}
	return w.windows[i].Claim(ctx, b, pos, ids)
}

// misplaced returns why a record with an id does not belong into the shard with that name.
func (w *ShardWindow) misplaced(shard, id string) string {
	is, ok := w.shard[shard]
	if want := w.queue.ShardOf(id); ok && want != is {
		return fmt.Sprintf("the record was pushed to %s, its id belongs to %s", shard, w.queue.Queues()[want].Name())
	}
	return ""
}

// Undo is [dedup.Deduplicator.Undo] in the windows of the ids. That of a single shard leaves claims
// in other shards alone: where several shards feed one table, they are those of batches that
// another promoter acknowledges.
func (w *ShardWindow) Undo(ctx context.Context, claims []dedup.Claim) ([][]dedup.Undo, error) {
	out := make([][]dedup.Undo, len(claims))
	err := w.byShard(len(claims), func(i int) string { return claims[i].ID }, func(window *dedup.Deduplicator, part []int) error {
		mine := make([]dedup.Claim, len(part))
		for k, i := range part {
			mine[k] = claims[i]
		}
		undo, err := window.Undo(ctx, mine)
		if err != nil {
			return err
		}
		for k, i := range part {
			out[i] = undo[k]
		}
		return nil
	})
	return out, err
}

// Holders is [dedup.Deduplicator.Holders] in the windows of the ids; the window of a single shard
// finds only ids of that shard.
func (w *ShardWindow) Holders(ctx context.Context, ids ...string) ([]dedup.Holder, error) {
	out := make([]dedup.Holder, len(ids))
	err := w.byShard(len(ids), func(i int) string { return ids[i] }, func(window *dedup.Deduplicator, part []int) error {
		mine := make([]string, len(part))
		for k, i := range part {
			mine[k] = ids[i]
		}
		holders, err := window.Holders(ctx, mine...)
		if err != nil {
			return err
		}
		for k, i := range part {
			out[i] = holders[k]
		}
		return nil
	})
	return out, err
}

// byShard calls f for each window of w that has ids among n, with their indexes, all windows at
// once.
func (w *ShardWindow) byShard(n int, id func(int) string, f func(window *dedup.Deduplicator, part []int) error) error {
	parts := make([][]int, len(w.windows))
	for i := range n {
		if at := w.queue.ShardOf(id(i)); w.own < 0 || w.own == at {
			parts[at] = append(parts[at], i)
		}
	}
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, part := range parts {
		if len(part) > 0 {
			wg.Go(func() { errs[i] = f(w.windows[i], part) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}
