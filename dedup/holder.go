package dedup

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/rueidis"
)

// holderFields is the number of elements of a reply of find.lua for each id.
const holderFields = 3

// Holder is the place that holds an id: the record that is processed. All other records with the id
// are duplicates of it.
type Holder struct {
	// Held reports whether a place holds the id within the window. If not, the other fields are zero.
	Held bool
	// Place is Batch.Offset + position, in a root batch. The window stores only a digest of that
	// batch's id; see HeldBy.
	Place   int
	Claimed time.Time // by the window's clock
	digest  string
}

// HeldBy reports whether the holder is in the given root batch.
func (h Holder) HeldBy(rootBatch string) bool {
	return h.Held && h.digest == string(root(rootBatch))
}

// Holders returns which place holds each of ids. It changes nothing, and costs what Seen costs.
func (d *Deduplicator) Holders(ctx context.Context, ids ...string) ([]Holder, error) {
	out := make([]Holder, len(ids))
	err := d.find(ctx, "holder", ids, "", func(from int, fields []string, r rueidis.RedisMessage) error {
		list, err := r.ToArray()
		if err != nil {
			return err
		}
		if len(list) != holderFields*len(fields) {
			return fmt.Errorf("unexpected reply: got %d elements, want %d", len(list), holderFields*len(fields))
		}
		for i := range fields {
			h := &out[from+i]
			if h.digest, err = list[holderFields*i].ToString(); err != nil {
				return err
			}
			if h.digest == "" {
				continue
			}
			place, err := list[holderFields*i+1].AsInt64()
			if err != nil {
				return err
			}
			at, err := list[holderFields*i+2].AsInt64()
			if err != nil {
				return err
			}
			h.Held, h.Place, h.Claimed = true, int(place), time.UnixMilli(at)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
