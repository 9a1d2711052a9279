package queue

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/headrace/headrace/internal/redisx"
)

// Get reads a batch without leasing it. It returns ErrGone if the batch does not exist, and
// ErrBroken if its keys are inconsistent.
func (q *Queue) Get(ctx context.Context, id string) (*Batch, error) {
	meta, err := q.server.Read(ctx, "HGETALL", q.metaKey(id)).AsStrMap()
	if err != nil {
		return nil, wrapKeys(ctx, q.server, "get", err, q.metaType(id))
	}
	if len(meta) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrGone, shown(id))
	}
	n, err := strconv.Atoi(meta["n"])
	if err != nil || n < 1 || n > MaxRecords {
		return nil, fmt.Errorf("%w: batch %s: its number of records is %q", ErrBroken, shown(id), cut(meta["n"], maxText))
	}
	list, err := q.payloads(ctx, id, n, chunkOf(q.cfg.Lease.Bytes), nil)
	switch {
	case err != nil:
		return nil, wrapKeys(ctx, q.server, "get", err, q.listType(id))
	case len(list) == 0:
		return nil, fmt.Errorf("%w: %s", ErrGone, shown(id))
	case len(list) != n:
		return nil, fmt.Errorf("%w: batch %s: got %d records, want %d", ErrBroken, shown(id), len(list), n)
	}
	b := &Batch{Queue: q.name, ID: id, Guard: q.metaKey(id)}
	b.Attempt, _ = strconv.ParseInt(meta["att"], 10, 64)
	b.describe(meta)
	if !isID(b.Root) {
		return nil, fmt.Errorf("%w: batch %s: its root is %q", ErrBroken, shown(id), cut(b.Root, maxText))
	}
	return b, b.fill(list)
}

// Settle applies the ledger's state of b to the queue, whichever process holds the lease. A
// promoted batch is acknowledged. A void one is split, or, if it holds one record, buried. It does
// nothing if that was done before. Every process that finds a batch in the ledger calls it.
//
// Calling it with void for a batch that is not void in the ledger may duplicate its records.
func (q *Queue) Settle(ctx context.Context, b *Batch, s Resolution) error {
	if b == nil {
		return noBatch("settle")
	}
	if err := q.checkUndo(s.Undo); err != nil {
		return err
	}
	if s.Promoted {
		_, err := q.AckWith(ctx, Ack{ID: b.ID, Undo: s.Undo})
		return err
	}
	return q.split(ctx, b, "", s.Undo)
}

// settleFailed settles a batch that has failed too often. The batch is leased for this, so when the
// process dies in the middle, the lease expires and another one settles it.
func (q *Queue) settleFailed(ctx context.Context, b *Batch, settle SettleFunc) error {
	ctx, cancel := redisx.Outlive(ctx, replyGrace)
	defer cancel()
	if settle == nil {
		return q.split(ctx, b, strconv.FormatInt(b.Attempt, 10), nil)
	}
	s, err := settle(ctx, b)
	if err == nil {
		err = q.Settle(ctx, b, s)
	}
	if err != nil {
		// The batch goes back as it was, with its counters, a little later. If the lease is lost, there
		// is nothing to give back.
		_ = q.release(context.WithoutCancel(ctx), stateSettling, b, ReleaseOptions{Delay: q.cfg.Lease.Backoff})
		return fmt.Errorf("queue: settle batch %s: %w", shown(b.ID), err)
	}
	return nil
}

// replyBroken is the reply of hold.lua and settle.lua for a batch whose keys are inconsistent.
const replyBroken = -2

// split splits or buries b. A split makes √n children of about √n records each, so that a poison
// record is isolated after few levels, and few of its neighbours go through small batches. attempt
// is "" if b is void.
func (q *Queue) split(ctx context.Context, b *Batch, attempt string, undo []Undo) error {
	args := []string{b.ID, attempt, cut(b.blame(), MaxReason), flag(q.fast)}
	if n := len(b.Payloads); n > 1 {
		children := int(math.Ceil(math.Sqrt(float64(n))))
		args = append(args, itoa(children))
		for range children {
			args = append(args, q.newID())
		}
	} else {
		last := lastUndos(undo)
		if err := q.undoBefore(ctx, "split", b.ID, undo[:len(undo)-len(last)]); err != nil {
			return err
		}
		args = appendUndo(append(args, "0"), last)
	}
	v, err := q.run(ctx, settleScript, drains, args...).AsInt64()
	switch {
	case err != nil:
		return q.wrapScript(ctx, "split", err, append(undoKeys(lastUndos(undo)), q.metaType(b.ID), q.listType(b.ID))...)
	case v == replyBroken:
		return fmt.Errorf("%w: batch %s", ErrBroken, shown(b.ID))
	}
	// A lost lease is no error: another process has settled the batch, or will.
	return nil
}

// blame is the reason of a dead letter.
func (b *Batch) blame() string {
	switch {
	case b.Crashes > 0 && b.Crashes > b.Failures:
		s := fmt.Sprintf("its lease expired %d times", b.Crashes)
		if b.Reason != "" {
			s += "; last failure: " + b.Reason
		}
		return s
	case b.Reason != "":
		return b.Reason
	}
	return "made void"
}
