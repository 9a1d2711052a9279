package dedup

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/redis/rueidis"
)

// perFind is the number of ids that find looks up in one command.
const perFind = 500

// Forget removes ids from the window, whichever place holds them, and returns how many it removed.
func (d *Deduplicator) Forget(ctx context.Context, ids ...string) (int, error) {
	return d.remove(ctx, ids, "")
}

func (d *Deduplicator) remove(ctx context.Context, ids []string, places string) (int, error) {
	removed := 0
	err := d.find(ctx, "remove", ids, places, func(_ int, _ []string, r rueidis.RedisMessage) error {
		n, err := r.AsInt64()
		removed += int(n)
		return err
	})
	return removed, err
}

// Seen reports which ids are in the window. It changes nothing.
func (d *Deduplicator) Seen(ctx context.Context, ids ...string) ([]bool, error) {
	seen := make([]bool, len(ids))
	err := d.find(ctx, "seen", ids, "", func(from int, part []string, r rueidis.RedisMessage) error {
		text, err := r.ToString()
		if err != nil {
			return err
		}
		if len(text) != len(part) {
			return fmt.Errorf("unexpected reply: got %d answers, want %d", len(text), len(part))
		}
		for i := range text {
			seen[from+i] = text[i] == '1'
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return seen, nil
}

// find runs find.lua for ids, perFind at a time, and calls each with the reply, the names that the
// ids are stored under, and the index of the first one. A script also runs where it only reads, so
// a client that reads from replicas gets no answer from the past.
func (d *Deduplicator) find(ctx context.Context, what string, ids []string, places string,
	each func(from int, fields []string, r rueidis.RedisMessage) error) error {
	fields, err := d.fields(nil, ids)
	if err != nil {
		return err
	}
	from := 0
	for part := range slices.Chunk(fields, perFind) {
		holders := places
		if places != "" {
			holders = places[from*placeBytes : (from+len(part))*placeBytes]
		}
		var text []byte
		for _, f := range part {
			text = appendID(text, f)
		}
		replies, err := d.place(ctx, "", func(tables []table) ([]rueidis.RedisResult, error) {
			args := d.args(what, lengths(part), holders, string(text), strconv.Itoa(len(part)))
			return []rueidis.RedisResult{d.run(ctx, findScript, d.keys, append(args, slotArgs(tables, part, d.asText)...))}, nil
		})
		if err == nil {
			err = each(from, part, replies[0].value)
		}
		if err != nil {
			return fmt.Errorf("dedup: %s: %w", what, err)
		}
		from += len(part)
	}
	return nil
}
