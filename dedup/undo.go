package dedup

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/redis/rueidis"
)

// Claim is an id and the place that holds it.
type Claim struct {
	Root  string
	Place int // Batch.Offset + position
	ID    string
}

// Undo gives one claim back: if the string at Key contains Old at Offset, New must overwrite those
// bytes.
type Undo struct {
	Key      string
	Offset   int64
	Old, New string
}

// Undo returns, for each claim, how to give it back: undo[i] belongs to claims[i], and is empty if
// the place does not hold the id. It changes nothing. Let the script that acknowledges or buries
// the batch apply it, so that both happen or neither. Undo takes one round trip for every 500
// claims, each of which costs the server 3 to 5 µs.
//
// Call it only for claims that have been made; a caller that knows of a rejected record has made
// its claim. A place claims an id only once, and no other claim ever reuses its bytes in Redis,
// unless Redis forgets its last writes in between.
func (d *Deduplicator) Undo(ctx context.Context, claims []Claim) (undo [][]Undo, err error) {
	if err := checkPlaces(claims); err != nil {
		return nil, err
	}
	undo = make([][]Undo, len(claims))
	err = d.find(ctx, "where", ids(claims), places(claims), func(from int, fields []string, r rueidis.RedisMessage) error {
		list, err := r.ToArray()
		if err != nil {
			return err
		}
		if len(list) != 2*len(fields) {
			return fmt.Errorf("unexpected reply: got %d elements, want %d", len(list), 2*len(fields))
		}
		for i, field := range fields {
			u := Undo{Old: string(appendID(nil, field)), New: "\x00\x00"}
			if u.Key, err = list[2*i].ToString(); err != nil {
				return err
			}
			if u.Key == "" {
				continue
			}
			if u.Offset, err = list[2*i+1].AsInt64(); err != nil {
				return err
			}
			undo[from+i] = []Undo{u}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return undo, nil
}

// Release gives claims back at once, if the place still holds them, and returns how many it gave
// back. Call it only after the commit, and not for batches of a queue: Undo does the same in one
// step with the acknowledgement.
func (d *Deduplicator) Release(ctx context.Context, claims ...Claim) (int, error) {
	if err := checkPlaces(claims); err != nil {
		return 0, err
	}
	return d.remove(ctx, ids(claims), places(claims))
}

// checkPlaces returns an error for a place that no claim can have. In four bytes it would be that
// of another record.
func checkPlaces(claims []Claim) error {
	for i, c := range claims {
		if c.Place < 0 || int64(c.Place) > maxPlace {
			return fmt.Errorf("%w: claim %d: Place is %d, must be 0 to %d", ErrBatch, i, c.Place, int64(maxPlace))
		}
	}
	return nil
}

func ids(claims []Claim) []string {
	ids := make([]string, len(claims))
	for i, c := range claims {
		ids[i] = c.ID
	}
	return ids
}

// placeBytes is the size of a place: 8 bytes digest of the root, 4 bytes place.
const placeBytes = 12

// places returns the places of claims, as find.lua parses them.
func places(claims []Claim) string {
	b := make([]byte, 0, placeBytes*len(claims))
	for _, c := range claims {
		b = binary.BigEndian.AppendUint32(append(b, root(c.Root)...), uint32(c.Place))
	}
	return string(b)
}
