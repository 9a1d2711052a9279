package dedup

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/redis/rueidis"
)

// perFind is how many claims Undo looks up in one call.
const perFind = 10_000

// Claim is a claim: an id and the place that holds it.
type Claim struct {
	Root  string
	Place int // Offset + position
	ID    string
}

// Undo gives one claim back: where the string Key has Old at Offset, the bytes there are to be overwritten with New.
type Undo struct {
	Key      string
	Offset   int64
	Old, New string
}

// Undo returns, for each claim, what gives it back: undo[i] belongs to claims[i], and is empty if the place does not hold the
// id. It changes nothing itself: let the script that acknowledges or buries the batch do it, so that both happen or
// neither. One round trip for 10,000 claims, which cost the server 3 to 5 µs each.
//
// Call it after the claim was made, which a caller that learned of a rejected record has done; a place claims an id only
// once, and no other claim will ever be where this one is, unless Redis forgets its last writes in between.
func (w *Deduplicator) Undo(ctx context.Context, claims []Claim) (undo [][]Undo, err error) {
	undo = make([][]Undo, 0, len(claims))
	for part := range slices.Chunk(claims, perFind) {
		fields, reply, err := w.find(ctx, "where", ids(part), places(part))
		if err != nil {
			return nil, err
		}
		list, err := reply.ToArray()
		if err == nil && len(list) != 2*len(part) {
			err = fmt.Errorf("%d answers for %d claims", len(list), len(part))
		}
		for i := 0; err == nil && i < len(part); i++ {
			var u Undo
			if u.Key, err = list[2*i].ToString(); err != nil || u.Key == "" {
				undo = append(undo, nil)
				continue
			}
			u.Offset, err = list[2*i+1].AsInt64()
			u.Old, u.New = string(appendID(nil, fields[i])), "\x00\x00"
			undo = append(undo, []Undo{u})
		}
		if err != nil {
			return nil, fmt.Errorf("dedup: %w", err)
		}
	}
	return undo, nil
}

// Release gives claims back at once, where the place still holds them, and returns how many it gave back. After the
// commit only, and not for batches of a queue: there, Undo makes it one step with the acknowledgement.
func (w *Deduplicator) Release(ctx context.Context, claims ...Claim) (int, error) {
	return w.remove(ctx, ids(claims), places(claims))
}

func ids(claims []Claim) []string {
	ids := make([]string, len(claims))
	for i, c := range claims {
		ids[i] = c.ID
	}
	return ids
}

func places(claims []Claim) string {
	b := make([]byte, 0, 12*len(claims))
	for _, c := range claims {
		b = binary.BigEndian.AppendUint32(append(b, root(c.Root)...), uint32(c.Place))
	}
	return string(b)
}

// Forget takes ids out of the window, whoever holds them, and returns how many were there.
func (w *Deduplicator) Forget(ctx context.Context, ids ...string) (int, error) {
	return w.remove(ctx, ids, "")
}

func (w *Deduplicator) remove(ctx context.Context, ids []string, places string) (int, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	_, reply, err := w.find(ctx, "remove", ids, places)
	if err != nil {
		return 0, err
	}
	n, err := reply.AsInt64()
	if err != nil {
		return 0, fmt.Errorf("dedup: %w", err)
	}
	return int(n), nil
}

// Seen reports which ids are in the window. It changes nothing.
func (w *Deduplicator) Seen(ctx context.Context, ids ...string) ([]bool, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	_, r, err := w.find(ctx, "seen", ids, "")
	if err != nil {
		return nil, err
	}
	reply, err := r.ToString()
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

// find runs find.lua. It is a script also where it only reads: a client that reads from replicas must not get an answer from
// the past. It returns the names that the ids are kept under.
func (w *Deduplicator) find(ctx context.Context, what string, ids []string, places string) ([]string, rueidis.RedisResult, error) {
	fields, err := w.fields(nil, ids)
	if err != nil {
		return nil, rueidis.RedisResult{}, err
	}
	var text []byte
	for _, f := range fields {
		text = appendID(text, f)
	}
	args := append(slices.Clip(w.head), what, hashes(fields), lengths(fields), places, string(text))
	return fields, w.exec(ctx, findScript, w.keys, args), nil
}

// Len estimates how many ids are in the window, in O(1). Claims are counted at ten moments of a window, and what is between
// them in proportion; those that were given back or forgotten are counted until they would have left.
func (w *Deduplicator) Len(ctx context.Context) (int64, error) {
	n, _, err := w.state(ctx, "read")
	return n, err
}

// Clear empties the window: at once for every reader, then it frees the memory, a thousand keys a round trip. If
// that is cut short, the rest expires by itself within a window.
func (w *Deduplicator) Clear(ctx context.Context) error {
	_, tables, err := w.state(ctx, "clear")
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
	for _, t := range tables {
		cmds = append(cmds, w.client.B().Unlink().Key(t.prefix+"i").Build())
		for k := range t.chunks {
			if len(cmds) == cap(cmds) {
				if err := flush(); err != nil {
					return err
				}
			}
			cmds = append(cmds, w.client.B().Unlink().Key(t.prefix+strconv.FormatInt(k, 10)).Build())
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return nil
}

// table is one table of the window, see tables.lua.
type table struct {
	prefix string
	chunks int64
}

// state asks the server for the estimated length and for all tables.
func (w *Deduplicator) state(ctx context.Context, what string) (int64, []table, error) {
	reply, err := w.exec(ctx, stateScript, w.keys, append(slices.Clip(w.head), what)).ToArray()
	if err != nil {
		return 0, nil, fmt.Errorf("dedup: %w", err)
	}
	var n int64
	var tables []table
	for i, m := range reply {
		switch {
		case i == 0:
			n, err = m.AsInt64()
		case i%2 == 1:
			var t table
			t.prefix, err = m.ToString()
			tables = append(tables, t)
		default:
			tables[len(tables)-1].chunks, err = m.AsInt64()
		}
		if err != nil {
			return 0, nil, fmt.Errorf("dedup: %w", err)
		}
	}
	return n, tables, nil
}
