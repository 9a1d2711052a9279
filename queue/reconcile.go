package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// page bounds the batches or records of one call of a script, or of the caller.
const page = 500

// longPage bounds the items of a call of a script that runs some ten commands for each: 500 of them
// held the server for 8 to 18 ms.
const longPage = 200

// HandedOff lists the batches that were handed off and are not yet acknowledged.
func (q *Queue) HandedOff(ctx context.Context) ([]HandedOff, error) {
	var all []HandedOff
	err := q.eachHanded(ctx, func(h []HandedOff) error { all = append(all, h...); return nil })
	return all, err
}

// eachHanded calls f with pages of the batches that stay handed off from its beginning to its end.
// Those that come or go in between may be missed.
func (q *Queue) eachHanded(ctx context.Context, f func([]HandedOff) error) error {
	seen := map[string]bool{} // ZSCAN may show an element twice
	var todo []HandedOff
	for cursor := uint64(0); ; {
		e, err := q.server.Read(ctx, "ZSCAN", q.keys[keyHanded], strconv.FormatUint(cursor, 10), "COUNT", itoa(page)).AsScanEntry()
		if err != nil {
			return wrapKeys(ctx, q.server, "handed off", err, q.typeOf(keyHanded))
		}
		for i := 0; i+1 < len(e.Elements); i += 2 {
			if id := e.Elements[i]; !seen[id] {
				seen[id] = true
				since, _ := strconv.ParseFloat(e.Elements[i+1], 64)
				todo = append(todo, HandedOff{ID: id, Since: time.UnixMilli(int64(since))})
			}
		}
		for len(todo) >= page || e.Cursor == 0 && len(todo) > 0 {
			n := min(page, len(todo))
			p := todo[:n]
			todo = todo[n:]
			if p, err = q.attempts(ctx, p); err != nil {
				return err
			}
			if len(p) > 0 {
				if err := f(p); err != nil {
					return err
				}
			}
		}
		if cursor = e.Cursor; cursor == 0 {
			return nil
		}
	}
}

// attempts reads the fencing tokens of a page, and leaves out what is gone.
func (q *Queue) attempts(ctx context.Context, p []HandedOff) ([]HandedOff, error) {
	results := q.server.ReadAll(ctx, func() []rueidis.Completed {
		cmds := make([]rueidis.Completed, len(p))
		for i, h := range p {
			cmds[i] = q.server.Command("HMGET", q.metaKey(h.ID), "att", "n")
		}
		return cmds
	})
	var out []HandedOff
	for i, r := range results {
		v, err := r.AsStrSlice()
		if errors.Is(wrap("", err), ErrWrongType) {
			if isID(p[i].ID) {
				out = append(out, p[i]) // the scripts set it aside
			}
			continue
		}
		switch {
		case err != nil:
			return nil, wrap("handed off", err)
		case len(v) != 2:
			return nil, unexpected("handed off", len(v), 2)
		case v[0] == "" || !isID(p[i].ID): // gone, or damaged: no ledger knows it
			continue
		}
		h := p[i]
		h.Attempt, _ = strconv.ParseInt(v[0], 10, 64)
		h.Records, _ = strconv.Atoi(v[1])
		out = append(out, h)
	}
	return out, nil
}

// Reconcile asks known for the fate of every handed-off batch, and acts on it as listed at [Fate].
// For a void batch it also calls settle, whose undos replace those of its BatchFate; nil: they
// stay. Call Reconcile at start, after an error of the durable side, and periodically. It counts
// nothing against a batch. An error of one batch does not stop it; it returns all errors joined.
func (q *Queue) Reconcile(ctx context.Context, known FatesFunc, settle SettleFunc) (ReconcileResult, error) {
	var r ReconcileResult
	if known == nil {
		return r, fmt.Errorf("%w: Reconcile: the FatesFunc is nil, must ask the ledger", ErrConfig)
	}
	var errs []error
	err := q.eachHanded(ctx, func(p []HandedOff) error {
		ids := make([]string, len(p))
		for i, h := range p {
			ids[i] = h.ID
		}
		fates, err := known(ctx, ids)
		if err != nil {
			return fmt.Errorf("queue: reconcile: %w", err)
		}
		if len(fates) != len(ids) {
			return fmt.Errorf("queue: reconcile: FatesFunc returned %d fates, want %d", len(fates), len(ids))
		}
		pageErrs, err := q.reconcilePage(ctx, p, fates, settle, &r)
		errs = append(errs, pageErrs...)
		return err
	})
	return r, errors.Join(append(errs, err)...)
}

// reconcilePage acts on the fates of a page of batches, and counts in r. It returns the errors of
// single batches, and one that ends the whole.
func (q *Queue) reconcilePage(
	ctx context.Context, p []HandedOff, fates []BatchFate, settle SettleFunc, r *ReconcileResult,
) (errs []error, err error) {
	r.Seen += len(p)
	var back []string
	var acks []Ack
	for i, f := range fates {
		switch f.Fate {
		case FateStaged:
			r.Left++
		case FatePromoted:
			acks = append(acks, Ack{ID: p[i].ID, Undo: f.Undo})
		case FateVoid:
			if err := q.finishVoid(ctx, p[i].ID, f.Undo, settle); err != nil {
				errs = append(errs, err)
			} else {
				r.Settled++
			}
		case FateUnknown:
			back = append(back, p[i].ID, strconv.FormatInt(p[i].Attempt, 10))
		default:
			errs = append(errs, fmt.Errorf("queue: reconcile: the fate of batch %s is %d, must be 0 to %d", p[i].ID, f.Fate, FateVoid))
		}
	}
	n, err := q.AckWith(ctx, acks...)
	r.Acked += n
	if err != nil || len(back) == 0 {
		return errs, err
	}
	redelivered, err := q.run(ctx, redeliverScript, drains, back...).AsInt64()
	r.Redelivered += int(redelivered)
	return errs, q.wrapScript(ctx, "reconcile", err)
}

// finishVoid splits or buries a batch that is void in the ledger. It calls settle once more for the
// undo: making a void batch void changes nothing.
func (q *Queue) finishVoid(ctx context.Context, id string, undo []Undo, settle SettleFunc) error {
	b, err := q.Get(ctx, id)
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	s := Resolution{Undo: undo}
	if settle != nil {
		if s, err = settle(ctx, b); err != nil {
			return fmt.Errorf("queue: settle batch %s: %w", id, err)
		}
	}
	return q.Settle(ctx, b, s)
}
