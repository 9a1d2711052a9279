package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// acks builds the acknowledgements of committed batches. Each gives back, in the same script, the
// claims of the records in the durable rejects table. A worker's memory of its rejects does not
// count: another attempt may have been promoted.
func (f Flow[T]) acks(ctx context.Context, ids []string) ([]queue.Ack, error) {
	out := make([]queue.Ack, len(ids))
	for i, id := range ids {
		out[i].ID = id
	}
	if f.Chain.window == nil || len(ids) == 0 {
		return out, nil
	}
	rejects, err := f.Table.RejectsByBatch(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("pipeline: could not read the rejects of committed batches: %w", err)
	}
	var claims []dedup.Claim
	var owner []int // claims[j] belongs to out[owner[j]]
	for i, id := range ids {
		for _, r := range rejects[id] {
			if r.Key != "" {
				claims = append(claims, dedup.Claim{Root: r.Root, Place: r.Place, ID: r.Key})
				owner = append(owner, i)
			}
		}
	}
	undo, err := undoClaims(ctx, f.Chain.window, claims)
	if err != nil {
		return nil, err
	}
	for j, u := range undo {
		out[owner[j]].Undo = append(out[owner[j]].Undo, u...)
	}
	return out, nil
}

func undoClaims(ctx context.Context, w Deduplicator, claims []dedup.Claim) ([][]queue.Undo, error) {
	if len(claims) == 0 {
		return nil, nil
	}
	undo, err := w.Undo(ctx, claims)
	if err != nil {
		return nil, fmt.Errorf("pipeline: could not find the claims to give back: %w", err)
	}
	out := make([][]queue.Undo, len(undo))
	for i, list := range undo {
		for _, u := range list {
			out[i] = append(out[i], queue.Undo(u))
		}
	}
	return out, nil
}

// notifyGate wakes producers that wait at the gate.
func (f Flow[T]) notifyGate(ctx context.Context) {
	if f.Gate != nil {
		_ = f.Gate.Notify(ctx) // a hint: a waiting producer polls too
	}
}

// settler returns the callback that the queue calls for a batch that has failed too often. It makes
// the batch void in the ledger, unless the batch was promoted after all. For a single record, which
// is about to be buried, it also returns the claim to give back.
func (f Flow[T]) settler(worker string, log *slog.Logger) queue.SettleFunc {
	return func(ctx context.Context, qb *queue.Batch) (queue.Resolution, error) {
		fate, err := f.Table.Void(ctx, stagingBatch(qb, worker))
		if err != nil {
			return queue.Resolution{}, err
		}
		if fate == staging.FatePromoted {
			acks, err := f.acks(ctx, []string{qb.ID})
			if err != nil {
				return queue.Resolution{}, err
			}
			return queue.Resolution{Promoted: true, Undo: acks[0].Undo}, nil
		}
		if len(qb.Payloads) != 1 || !qb.Annotated || f.Chain.window == nil {
			// Nothing was claimed. The chain, which may be what kills workers, need not run again.
			return queue.Resolution{}, nil
		}
		return f.undoOfBurial(ctx, qb, log)
	}
}

// undoOfBurial runs the chain up to its Dedup stage to find the id of a record that is about to be
// buried, and returns the claim to give back.
func (f Flow[T]) undoOfBurial(ctx context.Context, qb *queue.Batch, log *slog.Logger) (queue.Resolution, error) {
	b := newBatch(qb)
	b.keysOnly = true
	if _, err := f.runChain(ctx, b); !errors.Is(err, errKeysKnown) {
		if isUnavailable(err) || ctx.Err() != nil {
			return queue.Resolution{}, err // a stage before Dedup cannot work now; the queue asks again
		}
		log.Warn("could not find the id of a dead record; its claim remains until the window has passed", "batch", qb.ID, "err", oneLine(err))
	}
	if b.keys == nil || b.keys[0] == "" {
		return queue.Resolution{}, nil
	}
	undo, err := undoClaims(ctx, f.Chain.window, []dedup.Claim{{Root: qb.Root, Place: qb.Offset, ID: b.keys[0]}})
	if err != nil {
		return queue.Resolution{}, err
	}
	return queue.Resolution{Undo: undo[0]}, nil
}
