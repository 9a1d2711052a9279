package dedup

import (
	"context"
	"fmt"

	"github.com/redis/rueidis"
)

// Claimed is a claim: an id and the place that holds it.
type Claimed struct {
	Root  string
	Place int // Offset + position
	ID    string
}

// Undo gives one claim back: where the hash Key has a Field whose value begins with Prefix, the field is to be deleted.
type Undo struct {
	Key, Field, Prefix string
}

// Undo returns, for each claim, what gives it back: undo[i] belongs to claims[i]. It changes nothing itself: let the
// script that acknowledges or buries the batch do it, so that both happen or neither. One round trip for all.
//
// Call it after the claim was made, which a caller that learned of a rejected record has done: the answer names every
// generation that can hold it then, and a place claims an id only once.
func (w *Window) Undo(ctx context.Context, claims []Claimed) (undo [][]Undo, err error) {
	if len(claims) == 0 {
		return nil, nil
	}
	_, gens, err := w.generations(ctx, "read")
	if err != nil {
		return nil, err
	}
	undo = make([][]Undo, len(claims))
	all := make([]Undo, 0, len(claims)*len(gens))
	for i, c := range claims {
		field := w.field(c.ID)
		digits := hashes([]string{field})
		prefix := string(newPlacer(c.Root).append(nil, c.Place))
		from := len(all)
		for _, g := range gens {
			all = append(all, Undo{Key: g.key(w, digits), Field: field, Prefix: prefix})
		}
		undo[i] = all[from:len(all):len(all)]
	}
	return undo, nil
}

// Release gives claims back at once, where the place still holds them, and returns how many it gave back. After the
// commit only, and not for batches of a queue: there, Undo makes it one step with the acknowledgement.
func (w *Window) Release(ctx context.Context, claims ...Claimed) (int, error) {
	ids := make([]string, len(claims))
	places := make([]byte, 0, 8*len(claims))
	for i, c := range claims {
		ids[i] = c.ID
		places = newPlacer(c.Root).append(places, c.Place)
	}
	return w.remove(ctx, ids, string(places))
}

// Forget takes ids out of the window, whoever holds them, and returns how many were there.
func (w *Window) Forget(ctx context.Context, ids ...string) (int, error) {
	return w.remove(ctx, ids, "")
}

func (w *Window) remove(ctx context.Context, ids []string, places string) (int, error) {
	fields, err := w.fields(nil, ids)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	args := make([]string, 0, len(w.head)+2+len(ids))
	args = append(args, w.head...)
	args = append(args, hashes(fields), places)
	n, err := w.exec(ctx, removeScript, w.keys, append(args, fields...)).AsInt64()
	if err != nil {
		return 0, fmt.Errorf("dedup: %w", err)
	}
	return int(n), nil
}

// Seen reports which ids are in the window. It changes nothing.
func (w *Window) Seen(ctx context.Context, ids ...string) ([]bool, error) {
	fields, err := w.fields(nil, ids)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	args := make([]string, 0, len(w.head)+1+len(ids))
	args = append(args, w.head...)
	args = append(args, hashes(fields))
	reply, err := w.exec(ctx, seenScript, w.keys, append(args, fields...)).ToString()
	if err != nil {
		return nil, fmt.Errorf("dedup: %w", err)
	}
	if len(reply) != len(ids) {
		return nil, fmt.Errorf("dedup: %d answers for %d ids", len(reply), len(ids))
	}
	seen := make([]bool, len(ids))
	for i := range reply {
		seen[i] = reply[i] == '1'
	}
	return seen, nil
}

// Len estimates how many ids are in the window, in O(1). Ids are counted by generation, so of the one that is just
// leaving the window a proportional part is taken; claims that were given back through Undo are counted until
// their generation goes.
func (w *Window) Len(ctx context.Context) (int64, error) {
	n, _, err := w.generations(ctx, "read")
	return n, err
}

// Clear empties the window: at once for every reader, then it frees the memory, a thousand buckets a round trip. If
// that is cut short, the rest expires by itself within two windows.
func (w *Window) Clear(ctx context.Context) error {
	_, gens, err := w.generations(ctx, "clear")
	if err != nil {
		return err
	}
	cmds := make(rueidis.Commands, 0, 1000)
	flush := func() error {
		for _, r := range w.client.DoMulti(ctx, cmds...) {
			if err := r.Error(); err != nil {
				return fmt.Errorf("dedup: %w", err)
			}
		}
		cmds = cmds[:0]
		return nil
	}
	for _, g := range gens {
		for i := range uint64(1) << g.bits {
			cmds = append(cmds, w.client.B().Unlink().Key(g.key(w, digits(i<<(64-g.bits)))).Build())
			if len(cmds) == cap(cmds) {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// generation is one generation of buckets, see gens.lua.
type generation struct {
	start string
	bits  int
}

// key is the bucket of an id in g, by the digits of its hash.
func (g generation) key(w *Window, digits string) string {
	return w.prefix + g.start + ":" + digits[:g.bits]
}

// generations asks the server for the estimated length and all generations that may hold a claim. It is a script, not
// a read: a client that reads from replicas must not get an answer from the past.
func (w *Window) generations(ctx context.Context, what string) (int64, []generation, error) {
	args := append(append([]string(nil), w.head...), what)
	reply, err := w.exec(ctx, stateScript, w.keys, args).ToArray()
	if err != nil {
		return 0, nil, fmt.Errorf("dedup: %w", err)
	}
	var n int64
	var gens []generation
	for i, m := range reply {
		switch {
		case i == 0:
			n, err = m.AsInt64()
		case i%2 == 1:
			var g generation
			g.start, err = m.ToString()
			gens = append(gens, g)
		default:
			var bits int64
			bits, err = m.AsInt64()
			gens[len(gens)-1].bits = int(bits)
		}
		if err != nil {
			return 0, nil, fmt.Errorf("dedup: %w", err)
		}
	}
	return n, gens, nil
}
