package queue

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/uid"
)

// Ack acknowledges batches: they are gone. It needs no lease, because nothing but a durable commit can be the reason for
// it, and is harmless when it comes twice. It answers how many there still were.
func (q *Queue) Ack(ctx context.Context, ids ...string) (int, error) {
	acks := make([]Ack, len(ids))
	for i, id := range ids {
		acks[i].ID = id
	}
	return q.AckWith(ctx, acks...)
}

// AckWith is Ack with something undone in the same step as each acknowledgement. The undo of a batch that is gone is not
// done again.
func (q *Queue) AckWith(ctx context.Context, acks ...Ack) (int, error) {
	for _, a := range acks {
		if err := q.checkUndo(a.Undo); err != nil {
			return 0, err
		}
	}
	total := 0
	for len(acks) > 0 {
		args := []string{q.prefix}
		n := 0
		// A script keeps everybody waiting: a few thousand arguments at a time.
		for ; n < len(acks) && (n == 0 || len(args)+4*len(acks[n].Undo) < 5000); n++ {
			args = append(args, acks[n].ID, itoa(len(acks[n].Undo)))
			args = appendUndo(args, acks[n].Undo)
		}
		done, err := q.run(ctx, ackScript, true, args...).AsInt64()
		if err != nil {
			return total, wrap("ack", err)
		}
		total += int(done)
		acks = acks[n:]
	}
	return total, nil
}

func appendUndo(args []string, undo []Undo) []string {
	for _, u := range undo {
		args = append(args, u.Key, itoa(int(u.Offset)), u.Old, u.New)
	}
	return args
}

func (q *Queue) checkUndo(undo []Undo) error {
	for _, u := range undo {
		if !strings.HasPrefix(u.Key, q.prefix[:len(q.prefix)-1]) {
			return fmt.Errorf("%w: key %q does not begin with %s, so it may be on another node", ErrUndo, u.Key, q.prefix[:len(q.prefix)-1])
		}
		if u.Offset < 0 || u.Old == "" || len(u.New) > len(u.Old) {
			return fmt.Errorf("%w: key %q: offset %d must not be negative, Old (%d bytes) not empty, New (%d bytes) no longer than Old", ErrUndo, u.Key, u.Offset, len(u.Old), len(u.New))
		}
	}
	return nil
}

// Get reads a batch without leasing it. ErrGone: there is none.
func (q *Queue) Get(ctx context.Context, id string) (*Batch, error) {
	r := q.c.DoMulti(ctx, q.c.B().Hgetall().Key(q.meta(id)).Build(), q.c.B().Lrange().Key(q.list(id)).Start(0).Stop(-1).Build())
	meta, err := r[0].AsStrMap()
	if err != nil {
		return nil, wrap("get", err)
	}
	list, err := r[1].ToArray()
	if err != nil {
		return nil, wrap("get", err)
	}
	if n, _ := strconv.Atoi(meta["n"]); len(meta) == 0 || len(list) != n {
		return nil, fmt.Errorf("%w: %s", ErrGone, id)
	}
	b := &Batch{Queue: q.name, ID: id, Guard: q.meta(id)}
	b.Attempt, _ = strconv.ParseInt(meta["att"], 10, 64)
	b.describe(meta)
	return b, b.fill(list)
}

// Settle finishes what the ledger says of b, whoever holds it: promoted → acknowledged; void → split, or, when it holds one
// record, buried. It does nothing when that was done before. Whoever meets a batch in the ledger calls it.
//
// Calling it for a batch that no ledger has made void may double its records.
func (q *Queue) Settle(ctx context.Context, b *Batch, s Resolution) error {
	if err := q.checkUndo(s.Undo); err != nil {
		return err
	}
	if s.Promoted {
		_, err := q.AckWith(ctx, Ack{ID: b.ID, Undo: s.Undo})
		return err
	}
	return q.split(ctx, b, "", s.Undo)
}

// settleOver handles a batch that was handed out because it has failed too often. It is leased for this, so that whoever dies in
// the middle leaves it to the next.
func (q *Queue) settleOver(ctx context.Context, b *Batch, settle SettleFunc) error {
	ctx, cancel := outlive(ctx, time.Second)
	defer cancel()
	if settle == nil {
		return q.split(ctx, b, strconv.FormatInt(b.Attempt, 10), nil)
	}
	s, err := settle(ctx, b)
	if err == nil {
		err = q.Settle(ctx, b, s)
	}
	if err != nil {
		// As it was, a little later; its counters stay. Who has lost it in between need not give it back.
		_ = q.release(context.WithoutCancel(ctx), "S", b, ReleaseOptions{Delay: q.cfg.Lease.Backoff})
		return fmt.Errorf("queue: settle batch %s: %w", b.ID, err)
	}
	return nil
}

// split splits or buries b: √n children of about √n records each, so that a poison record stands alone after few
// levels, and few of its neighbours go through small batches. attempt is "" when b is void.
func (q *Queue) split(ctx context.Context, b *Batch, attempt string, undo []Undo) error {
	args := []string{q.prefix, b.ID, attempt, b.blame(), "0"}
	if n := len(b.Payloads); n > 1 {
		children := int(math.Ceil(math.Sqrt(float64(n))))
		args[4] = itoa(children)
		for range children {
			args = append(args, uid.New())
		}
	} else {
		args = appendUndo(args, undo)
	}
	return wrap("split", q.run(ctx, settleScript, true, args...).Error())
}

// blame is the reason that goes with a dead record.
func (b *Batch) blame() string {
	switch {
	case b.Failures == 0 && b.Crashes > 0 || b.Crashes > b.Failures:
		s := fmt.Sprintf("its lease ran out %d times", b.Crashes)
		if b.Reason != "" && !strings.HasPrefix(b.Reason, "its lease ran out") {
			s += "; before: " + b.Reason
		}
		return s
	case b.Reason != "":
		return b.Reason
	}
	return "made void"
}
