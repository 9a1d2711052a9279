package queue

import (
	"context"
	"fmt"
	"strings"
)

// Bounds of one call of the acknowledging script, so that it does not block the server.
const maxAckBatches, maxAckUndos = 500, 4000

// Ack acknowledges batches and deletes them. It needs no lease: call it only after a durable
// commit, and then a second call is harmless. It returns how many of the batches still existed.
func (q *Queue) Ack(ctx context.Context, ids ...string) (int, error) {
	acks := make([]Ack, len(ids))
	for i, id := range ids {
		acks[i].ID = id
	}
	return q.AckWith(ctx, acks...)
}

// AckWith is Ack with undos, applied in the same step as each acknowledgement. The undos of a batch
// that is gone are not applied again. The acknowledgement of one batch is one step, however many
// undos it has: tens of thousands of them block the server for some milliseconds.
func (q *Queue) AckWith(ctx context.Context, acks ...Ack) (int, error) {
	for _, a := range acks {
		if err := q.checkUndo(a.Undo); err != nil {
			return 0, err
		}
	}
	total := 0
	for len(acks) > 0 {
		var args []string
		n, undos := 0, 0
		for ; n < len(acks) && n < maxAckBatches && (n == 0 || undos+len(acks[n].Undo) <= maxAckUndos); n++ {
			undos += len(acks[n].Undo)
			args = append(args, acks[n].ID, itoa(len(acks[n].Undo)))
			args = appendUndo(args, acks[n].Undo)
		}
		done, err := q.run(ctx, ackScript, drains, args...).AsInt64()
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
		switch {
		case !strings.HasPrefix(u.Key, q.tag[:len(q.tag)-1]):
			return fmt.Errorf("%w: key is %q, must begin with %s, or it may be on another node", ErrUndo, u.Key, q.tag[:len(q.tag)-1])
		case u.Offset < 0:
			return fmt.Errorf("%w: key %q: offset is %d, must not be negative", ErrUndo, u.Key, u.Offset)
		case u.Old == "":
			return fmt.Errorf("%w: key %q: Old is empty", ErrUndo, u.Key)
		case len(u.New) > len(u.Old):
			return fmt.Errorf("%w: key %q: New has %d bytes, must have at most the %d of Old", ErrUndo, u.Key, len(u.New), len(u.Old))
		}
	}
	return nil
}
