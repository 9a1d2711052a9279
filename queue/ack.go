package queue

import (
	"context"
	"fmt"
	"strings"

	"github.com/headrace/headrace/internal/redisx"
)

// Bounds of one call of the acknowledging script, so that it does not block the server.
const maxAckBatches, maxUndos, maxUndoBytes = 500, 1000, 1 << 20

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
// that is gone are not applied again. If there are more than 1,000 undos, or 1 MiB of them, the
// first ones are applied in separate steps beforehand, while the batch still exists. A program that
// dies in between leaves a batch with some of its undos applied, and the next acknowledgement
// applies the rest.
func (q *Queue) AckWith(ctx context.Context, acks ...Ack) (int, error) {
	for _, a := range acks {
		if err := q.checkUndo(a.Undo); err != nil {
			return 0, err
		}
	}
	total := 0
	for len(acks) > 0 {
		var args []string
		n, undos, bytes := 0, 0, 0
		for n < len(acks) && n < maxAckBatches {
			last := lastUndos(acks[n].Undo)
			if undos, bytes = undos+len(last), bytes+undoBytes(last); n > 0 && (undos > maxUndos || bytes > maxUndoBytes) {
				break
			}
			if err := q.undoBefore(ctx, "ack", acks[n].ID, acks[n].Undo[:len(acks[n].Undo)-len(last)]); err != nil {
				return total, err
			}
			args = append(args, acks[n].ID, itoa(len(last)))
			args = appendUndo(args, last)
			n++
		}
		done, err := q.run(ctx, ackScript, drains, args...).AsInt64()
		if err != nil {
			var undo []Undo
			for _, a := range acks[:n] {
				undo = append(undo, lastUndos(a.Undo)...)
			}
			return total, q.wrapScript(ctx, "ack", err, undoKeys(undo)...)
		}
		total += int(done)
		acks = acks[n:]
	}
	return total, nil
}

// lastUndos returns the undos that go into the script that ends their batch. Those before them do
// not fit, and go first: see undoBefore.
func lastUndos(undo []Undo) []Undo {
	bytes, from := 0, len(undo)
	for from > 0 && len(undo)-from < maxUndos {
		if bytes += undoBytes(undo[from-1 : from]); bytes > maxUndoBytes && from < len(undo) {
			break
		}
		from--
	}
	return undo[from:]
}

// undoBefore applies the undos that do not fit into the script that ends their batch.
func (q *Queue) undoBefore(ctx context.Context, op, id string, undo []Undo) error {
	for len(undo) > 0 {
		last := lastUndos(undo)
		if err := q.run(ctx, undoScript, drains, appendUndo([]string{id}, last)...).Error(); err != nil {
			return q.wrapScript(ctx, op, err, undoKeys(last)...)
		}
		undo = undo[:len(undo)-len(last)]
	}
	return nil
}

func undoBytes(undo []Undo) (n int) {
	for _, u := range undo {
		n += len(u.Key) + 2*len(u.Old) + len(u.New) // Old is also read
	}
	return n
}

// undoKeys returns the keys of undos with their type.
func undoKeys(undo []Undo) []redisx.KeyType {
	keys := make([]redisx.KeyType, len(undo))
	for i, u := range undo {
		keys[i] = redisx.KeyType{Key: u.Key, Type: "string"}
	}
	return keys
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
			return fmt.Errorf("%w: key is %q, must begin with %s, or it may be on another node", ErrUndo, cut(u.Key, maxName), q.tag[:len(q.tag)-1])
		case u.Offset < 0:
			return fmt.Errorf("%w: key %q: offset is %d, must not be negative", ErrUndo, cut(u.Key, maxName), u.Offset)
		case u.Old == "":
			return fmt.Errorf("%w: key %q: Old is empty", ErrUndo, cut(u.Key, maxName))
		case len(u.New) > len(u.Old):
			return fmt.Errorf("%w: key %q: New has %d bytes, must have at most the %d of Old", ErrUndo, cut(u.Key, maxName), len(u.New), len(u.Old))
		}
	}
	return nil
}
