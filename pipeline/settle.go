package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// acks makes the acknowledgements of committed batches: each with the claims that are given back in the same script, those of records that
// the durable rejects table holds. What a worker remembers of its rejects does not count: another attempt may have been promoted.
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
		return nil, fmt.Errorf("pipeline: reading the rejects of committed batches: %w", err)
	}
	var claims []dedup.Claim
	var of []int // claims[j] belongs to out[of[j]]
	for i, id := range ids {
		for _, r := range rejects[id] {
			if r.Key != "" {
				claims = append(claims, dedup.Claim{Root: r.Root, Place: r.Place, ID: r.Key})
				of = append(of, i)
			}
		}
	}
	undo, err := undoClaims(ctx, f.Chain.window, claims)
	if err != nil {
		return nil, err
	}
	for j, u := range undo {
		out[of[j]].Undo = append(out[of[j]].Undo, u...)
	}
	return out, nil
}

func undoClaims(ctx context.Context, w Deduplicator, claims []dedup.Claim) ([][]queue.Undo, error) {
	if len(claims) == 0 {
		return nil, nil
	}
	undo, err := w.Undo(ctx, claims)
	if err != nil {
		return nil, fmt.Errorf("pipeline: giving claims back: %w", err)
	}
	out := make([][]queue.Undo, len(undo))
	for i, list := range undo {
		for _, u := range list {
			out[i] = append(out[i], queue.Undo(u))
		}
	}
	return out, nil
}

// madeRoom wakes producers that wait at the gate.
func (f Flow[T]) madeRoom(ctx context.Context) {
	if f.Gate != nil {
		_ = f.Gate.Notify(ctx) // a hint: a waiting producer looks by itself too
	}
}

// settler answers the queue's question about a batch that has failed too often: it makes the batch void in the ledger, unless it was
// promoted after all. For a single record, which is to be buried, it also says which claim to give back.
func (f Flow[T]) settler(who string, log *slog.Logger) queue.SettleFunc {
	return func(ctx context.Context, qb *queue.Batch) (queue.Resolution, error) {
		fate, err := f.Table.Void(ctx, stagingBatch(qb, who))
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
			// Nothing was claimed: the chain, which may be what kills workers, need not see the record again.
			return queue.Resolution{}, nil
		}
		b := newBatch(qb)
		b.keysOnly = true
		if _, err := f.runChain(ctx, b); !errors.Is(err, errKeysKnown) {
			if isUnavailable(err) || ctx.Err() != nil {
				return queue.Resolution{}, err // a stage before Dedup cannot work now; ask again later
			}
			log.Warn("the id of a dead record cannot be told; its claim stays until the window has passed", "batch", qb.ID, "err", err)
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
}

func stagingBatch(b *queue.Batch, worker string) staging.Batch {
	return staging.Batch{ID: b.ID, Root: b.Root, Offset: b.Offset, Records: len(b.Payloads), Attempt: b.Attempt, Worker: worker, Sealed: b.Sealed}
}

// runChain runs a batch through the chain. A panic in it is an error of the batch.
func (f Flow[T]) runChain(ctx context.Context, b *Batch) (out Records[T], err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("pipeline: panic in the chain: %v\n%s", p, debug.Stack())
		}
	}()
	in := Records[[]byte]{Values: b.Payloads, Pos: make([]int32, len(b.Payloads))}
	for i := range in.Pos {
		in.Pos[i] = int32(i)
	}
	return f.Chain.run(ctx, b, in)
}

// transient tells errors of the surroundings from those of the data. A batch must never pay for a Postgres that is away, full,
// restarting, locked, or set up wrongly; of what Postgres itself answers, only the classes that speak of values count against it.
func transient(err error) bool {
	if isUnavailable(err) || errors.Is(err, staging.ErrBusy) || errors.Is(err, staging.ErrUnknown) {
		return true
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		for _, class := range []string{"21", "22", "23", "44", "54"} { // cardinality, data, constraint, check option, program limit
			if strings.HasPrefix(pg.Code, class) {
				return false
			}
		}
		return true
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err) || pgconn.Timeout(err) ||
		errors.Is(err, net.ErrClosed) || isEOF(err)
}
