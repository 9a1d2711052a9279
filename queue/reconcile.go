package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

const page = 500 // batches of one question

// Handed lists the batches that were handed off and are not acknowledged.
func (q *Queue) HandedOff(ctx context.Context) ([]HandedOff, error) {
	var all []HandedOff
	err := q.eachHanded(ctx, func(h []HandedOff) error { all = append(all, h...); return nil })
	return all, err
}

// eachHanded calls f with pages of the batches that are handed off from beginning to end; those that come or go meanwhile may be missed.
func (q *Queue) eachHanded(ctx context.Context, f func([]HandedOff) error) error {
	seen := map[string]bool{} // ZSCAN may show an element twice
	var todo []HandedOff
	for cursor := uint64(0); ; {
		e, err := q.c.Do(ctx, q.c.B().Zscan().Key(q.keys[kHanded]).Cursor(cursor).Count(page).Build()).AsScanEntry()
		if err != nil {
			return wrap("handed", err)
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
	cmds := make([]rueidis.Completed, len(p))
	for i, h := range p {
		cmds[i] = q.c.B().Hmget().Key(q.meta(h.ID)).Field("att", "n").Build()
	}
	var out []HandedOff
	for i, r := range q.c.DoMulti(ctx, cmds...) {
		v, err := r.ToArray()
		if err != nil {
			return nil, wrap("handed", err)
		}
		if len(v) != 2 || v[0].IsNil() {
			continue
		}
		h := p[i]
		h.Attempt, _ = v[0].AsInt64()
		n, _ := v[1].AsInt64()
		h.Records = int(n)
		out = append(out, h)
	}
	return out, nil
}

// Reconcile asks known for the fate of every batch that is handed off, and acts on it: at start, after an error of the durable
// side, and now and then. It never counts anything against a batch. It goes on after the error of one batch
// and returns the errors joined.
func (q *Queue) Reconcile(ctx context.Context, known FatesFunc, settle SettleFunc) (ReconcileResult, error) {
	var r ReconcileResult
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
			return fmt.Errorf("queue: reconcile: known gave %d answers for %d batches", len(fates), len(ids))
		}
		r.Seen += len(ids)
		back := []string{q.prefix}
		var acks []Ack
		for i, f := range fates {
			switch f.Fate {
			case FateStaged:
				r.Left++
			case FatePromoted:
				acks = append(acks, Ack{ID: ids[i], Undo: f.Undo})
			case FateVoid:
				if err := q.finishVoid(ctx, ids[i], f.Undo, settle); err != nil {
					errs = append(errs, err)
				} else {
					r.Settled++
				}
			case FateUnknown:
				back = append(back, ids[i], strconv.FormatInt(p[i].Attempt, 10))
			default:
				errs = append(errs, fmt.Errorf("queue: reconcile: batch %s has the strange fate %d", ids[i], f.Fate))
			}
		}
		n, err := q.AckWith(ctx, acks...)
		r.Acked += n
		if err != nil {
			return err
		}
		if len(back) > 1 {
			n, err := q.run(ctx, redeliverScript, true, back...).AsInt64()
			r.Redelivered += int(n)
			if err != nil {
				return wrap("reconcile", err)
			}
		}
		return nil
	})
	return r, errors.Join(append(errs, err)...)
}

// finishVoid splits or buries a batch that the ledger has as void. settle is asked once more, for the undo: making void what is
// void already changes nothing.
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
