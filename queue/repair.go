package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/internal/uid"
)

// RepairReport is the result of Repair.
type RepairReport struct {
	// Resumed counts whole batches that were in the wrong sets, Acked those that the ledger records as
	// promoted.
	Resumed, Acked int
	// Buried counts the records of damaged batches that became dead letters.
	Buried int
	// Lost counts the records that were written off because no key holds them any more.
	Lost int64
	// Relisted counts dead letters and delayed pushes that were put back into their sets or removed
	// from them, and dead letters whose fields were mended.
	Relisted int
	// Aside are the new names of keys of another type, which make way for those of the queue, and of
	// keys that belong to nothing. They are the operator's to inspect and delete.
	Aside []string
	// After is an audit after the repair. Its differences could not be mended: something moved.
	After AuditReport
}

// Repair mends what Audit finds, or writes it off, so that no batch stays in flight forever after
// an operator or another program has deleted or overwritten keys:
//
//   - A whole batch that is in the wrong sets goes back into circulation.
//   - A damaged batch is settled. If settle finds it promoted, it is acknowledged with its undos.
//     Otherwise its remaining records become dead letters, and Requeue delivers them again. Their
//     places may be wrong, so their own claims in a deduplication window may make them duplicates
//     until the window ends.
//   - A key that another program has given a time to live loses it.
//   - A delayed push that is due at no time is due at once.
//   - A dead letter whose place or times are not valid gets others.
//   - A key of another type, or one that belongs to nothing, is renamed to {name}:queue:aside:….
//   - Records that no key holds any more are written off as Stats.Lost.
//   - The counters are set to the counted values, if nothing moves in the meantime: pause the queue
//     for that. Those that nothing counts (Redelivered, Requeued, Splits, ClockSteps) keep their
//     value; if they hold no number, they start at 0.
//
// settle gets each damaged batch without its records, with a zero Sealed if that is not known. It
// may be nil if there is no ledger. Several processes may call Repair, and repeat it.
func (q *Queue) Repair(ctx context.Context, settle SettleFunc) (r RepairReport, err error) {
	var wrong *WrongTypeError
	if err := q.checkLayout(ctx); err != nil && !errors.As(err, &wrong) {
		return r, err // the keys of another version may have other types
	}
	if r.Aside, err = q.moveAside(ctx); err != nil {
		return r, err
	}
	stats, err := q.Stats(ctx)
	if err != nil {
		return r, err
	}
	before, err := q.auditInPasses(ctx)
	if err != nil {
		return r, err
	}
	for _, f := range before.found {
		if err := q.mend(ctx, f, settle, &r); err != nil {
			return r, err
		}
	}
	for range auditTries {
		a, err := q.audit(ctx)
		if err != nil {
			return r, err
		}
		done, err := q.recount(ctx, a)
		if err != nil {
			return r, err
		}
		if done {
			break
		}
	}
	r.After, err = q.Audit(ctx)
	r.Lost = max(r.After.Stats.Lost-stats.Lost, 0) // fewer if the sums began anew
	return r, err
}

// moveAside renames keys of another type than theirs.
func (q *Queue) moveAside(ctx context.Context) (aside []string, err error) {
	for range q.sharedKeys() {
		var wrong *WrongTypeError
		err := q.checkTypes(ctx)
		if !errors.As(err, &wrong) {
			return aside, err
		}
		to := q.prefix + "aside:" + uid.New()
		if err := q.client.Do(ctx, q.client.B().Rename().Key(wrong.Key).Newkey(to).Build()).Error(); err != nil {
			return aside, q.wrapScript(ctx, "repair", err)
		}
		aside = append(aside, to)
	}
	return aside, nil
}

// mend mends one finding, and counts in r.
func (q *Queue) mend(ctx context.Context, f finding, settle SettleFunc, r *RepairReport) error {
	relist := map[findingKind]string{
		lostDead: "forget dead", unlistedDead: "list dead", lostDelayed: "forget delayed", unlistedDelay: "list delayed",
		oddDead: "mend dead", reservedSum: "recount reserved", oddDelay: "list delayed",
	}
	if op, ok := relist[f.kind]; ok {
		args := []string{op, f.id}
		switch f.kind {
		case oddDead:
			args = append(args, q.newID())
		case unlistedDelay, oddDelay:
			args = append(args, ms(delayLasts))
		}
		n, err := q.runMend(ctx, r, args)
		if err == nil && f.id != "" {
			r.Relisted += int(n[0])
		}
		return err
	}
	switch f.kind {
	case strayKey:
		_, err := q.runMend(ctx, r, []string{"aside", f.id})
		return err
	case brokenBatch:
		return q.mendBatch(ctx, f.id, settle, r)
	case expiringKey:
		return wrap("repair", q.client.Do(ctx, q.client.B().Persist().Key(f.id).Build()).Error())
	}
	return nil // a sum: recount mends it
}

// runMend runs mend.lua, counts the keys that it has set aside in r, and returns its numbers.
// undoKeys are the keys of undos.
func (q *Queue) runMend(ctx context.Context, r *RepairReport, args []string, undoKeys ...redisx.KeyType) ([]int64, error) {
	v, err := q.run(ctx, mendScript, drains, args...).ToArray()
	if err != nil {
		return nil, q.wrapScript(ctx, "repair", err, undoKeys...)
	}
	if len(v) != 2 {
		return nil, unexpected("repair", len(v), 2)
	}
	numbers, err := v[0].AsIntSlice()
	if err != nil {
		return nil, wrap("repair", err)
	}
	if len(numbers) == 0 {
		return nil, unexpected("repair", 0, 1)
	}
	aside, err := v[1].AsStrSlice()
	r.Aside = append(r.Aside, aside...)
	return numbers, wrap("repair", err)
}

// mendBatch puts a whole batch back into circulation, and settles one that is damaged.
func (q *Queue) mendBatch(ctx context.Context, id string, settle SettleFunc, r *RepairReport) error {
	n, err := q.runMend(ctx, r, []string{"resume", id})
	if err != nil {
		return err
	}
	if n[0] > 0 {
		r.Resumed++
		return nil
	}
	b, err := q.readDamaged(ctx, id)
	if err != nil {
		return q.wrapScript(ctx, "repair", err)
	}
	var s Resolution
	if settle != nil && isID(id) { // a ledger has no other batch
		if s, err = settle(ctx, b); err != nil {
			return fmt.Errorf("queue: settle batch %s: %w", id, err)
		}
	}
	if s.Promoted {
		if err := q.checkUndo(s.Undo); err != nil {
			return err
		}
		last := lastUndos(s.Undo)
		if err := q.undoBefore(ctx, "repair", id, s.Undo[:len(s.Undo)-len(last)]); err != nil {
			return err
		}
		r.Acked++
		_, err := q.runMend(ctx, r, appendUndo([]string{"ack", id}, last), undoKeys(last)...)
		return err
	}
	return q.buryDamaged(ctx, id, r)
}

// readDamaged returns what is known of a damaged batch, for the ledger.
func (q *Queue) readDamaged(ctx context.Context, id string) (*Batch, error) {
	b := &Batch{Queue: q.name, ID: id, Root: id, Guard: q.metaKey(id)}
	meta, err := q.server.Read(ctx, "HGETALL", q.metaKey(id)).AsStrMap()
	if redisx.IsWrongType(err) {
		return b, nil
	}
	if err != nil {
		return b, err
	}
	b.describe(meta)
	if !isID(b.Root) || !isNumber(meta["off"], MaxRecords-1) {
		b.Root, b.Offset = id, 0
	}
	if !isNumber(meta["sealed"], maxNumber) {
		b.Sealed = time.Time{} // not known
	}
	return b, nil
}

// buryDamaged makes what is left of a damaged batch dead letters, in pages.
func (q *Queue) buryDamaged(ctx context.Context, id string, r *RepairReport) error {
	for {
		args := []string{"bury", id, "its batch was damaged: keys were deleted or overwritten"}
		for range page {
			args = append(args, q.newID())
		}
		v, err := q.runMend(ctx, r, args)
		if err != nil {
			return err
		}
		if len(v) != 3 {
			return unexpected("repair", len(v), 3)
		}
		r.Buried += int(v[0])
		if v[2] == 1 {
			return nil
		}
	}
}

// recount sets the counters to what a counted, if nothing has moved since. It reports whether that
// is done.
func (q *Queue) recount(ctx context.Context, a *auditRun) (bool, error) {
	if !a.report.Quiet {
		return false, nil
	}
	s := a.report.Stats
	args := []string{"recount", ""}
	for _, n := range []int64{
		s.Taken, s.Acked, s.InFlight, s.HandedOff, s.Dead, s.Delayed, s.Discarded, s.Lost,
		a.report.Records, a.records["H"], a.report.Dead, a.report.Delayed,
	} {
		args = append(args, itoa(int(n)))
	}
	n, err := q.runMend(ctx, &RepairReport{}, args)
	return err == nil && n[0] > 0, err
}
