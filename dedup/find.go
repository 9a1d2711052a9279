package dedup

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/rueidis"
)

// Forget removes ids from the window, whichever place holds them, and returns how many were there.
func (d *Deduplicator) Forget(ctx context.Context, ids ...string) (int, error) {
	return d.remove(ctx, ids, "")
}

func (d *Deduplicator) remove(ctx context.Context, ids []string, places string) (int, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	_, reply, err := d.find(ctx, "remove", ids, places)
	if err != nil {
		return 0, err
	}
	n, err := reply.AsInt64()
	if err != nil {
		return 0, fmt.Errorf("dedup: remove: %w", err)
	}
	return int(n), nil
}

// Seen reports which ids are in the window. It changes nothing.
func (d *Deduplicator) Seen(ctx context.Context, ids ...string) ([]bool, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	_, r, err := d.find(ctx, "seen", ids, "")
	if err != nil {
		return nil, err
	}
	reply, err := r.ToString()
	if err != nil {
		return nil, fmt.Errorf("dedup: seen: %w", err)
	}
	if len(reply) != len(ids) {
		return nil, fmt.Errorf("dedup: seen: unexpected reply: got %d answers, want %d", len(reply), len(ids))
	}
	seen := make([]bool, len(ids))
	for i := range reply {
		seen[i] = reply[i] == '1'
	}
	return seen, nil
}

// find runs find.lua. A script also runs where it only reads, so a client that reads from replicas
// gets no answer from the past. It returns the names that the ids are stored under.
func (d *Deduplicator) find(ctx context.Context, what string, ids []string, places string) ([]string, rueidis.RedisResult, error) {
	fields, err := d.fields(nil, ids)
	if err != nil {
		return nil, rueidis.RedisResult{}, err
	}
	var text []byte
	for _, f := range fields {
		text = appendID(text, f)
	}
	args := append(slices.Clip(d.head), what, hashes(fields), lengths(fields), places, string(text))
	return fields, d.run(ctx, findScript, d.keys, args), nil
}
