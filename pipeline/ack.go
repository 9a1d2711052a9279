package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

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
	if f.Chain.window == nil || f.Chain.keepsClaims || len(ids) == 0 {
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

// noticeTimeout bounds a notice, so that a node of a gate that does not answer delays no promotion.
const noticeTimeout = time.Second

// notifyGate wakes producers that wait at the gate.
func (f Flow[T]) notifyGate(ctx context.Context) {
	if f.Gate != nil {
		ctx, cancel := context.WithTimeout(ctx, noticeTimeout)
		defer cancel()
		_ = f.Gate.Notify(ctx) // a hint: a waiting producer polls too
	}
}

// settler returns the callback that the queue calls for a batch that has failed too often. It makes
// the batch void in the ledger, unless the batch was promoted after all. For a single record, which
// is about to be buried, it also returns the claim to give back. The chain, which finds that claim,
// runs for at most limit.
func (f Flow[T]) settler(worker string, log *slog.Logger, limit time.Duration) queue.SettleFunc {
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
		return f.undoOfBurial(ctx, qb, log, limit)
	}
}

// undoOfBurial runs the chain up to its Dedup stage to find the id of a record that is about to be
// buried, and returns the claim to give back. If the record makes the chain hang, it is buried
// after limit, and its claim remains.
func (f Flow[T]) undoOfBurial(ctx context.Context, qb *queue.Batch, log *slog.Logger, limit time.Duration) (queue.Resolution, error) {
	b, err := f.runToKeys(ctx, qb, limit)
	if !errors.Is(err, errKeysKnown) {
		if isUnavailable(err) || ctx.Err() != nil {
			return queue.Resolution{}, err // a stage before Dedup cannot work now; the queue asks again
		}
		log.Warn("pipeline: could not find the id of a dead record; its claim remains until the window has passed", "batch", qb.ID, "error", oneLine(err))
	}
	if b == nil || b.keys == nil || b.keys[0] == "" {
		return queue.Resolution{}, nil
	}
	undo, err := undoClaims(ctx, f.Chain.window, []dedup.Claim{{Root: qb.Root, Place: qb.Offset, ID: b.keys[0]}})
	if err != nil {
		return queue.Resolution{}, err
	}
	return queue.Resolution{Undo: undo[0]}, nil
}

// runToKeys runs the chain over a batch up to its Dedup stage. A function in the chain that neither
// returns nor checks its context is abandoned at the limit, with the batch.
func (f Flow[T]) runToKeys(ctx context.Context, qb *queue.Batch, limit time.Duration) (*Batch, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	b := newBatch(qb)
	b.keysOnly = true
	done := make(chan error, 1)
	go func() {
		_, err := f.runChain(limited, b)
		done <- err
	}()
	select {
	case err := <-done:
		return b, err
	case <-limited.Done():
	}
	select { // what checks its context returns now
	case err := <-done:
		if ctx.Err() == nil && !errors.Is(err, errKeysKnown) {
			// This includes a stage that takes the end of its context for an outage: it would do so each
			// time.
			err = fmt.Errorf("pipeline: the chain took longer than %v: %s", limit, err.Error()) // %s hides its kind
		}
		return b, err
	case <-time.After(keysGrace):
		return nil, fmt.Errorf("pipeline: the chain took longer than %v", limit)
	}
}

// keysGrace is how long runToKeys waits, after its limit, for functions that check their context.
const keysGrace = 100 * time.Millisecond
