package dedup

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/redis/rueidis"
)

// Stats counts what the window holds.
type Stats struct {
	// IDs estimates how many ids are in the window. Claims are counted at ten moments of a window, and
	// in proportion between them. Ids that were given back or forgotten are counted until they would
	// have left the window.
	IDs int64
	// Tables is the number of tables: mostly one, more for one window after the size or the window
	// changed.
	Tables int
	// Bytes is the size of all tables: their indexes and logs, without the server's overhead.
	Bytes int64
}

// Stats counts what the window holds, in O(1).
func (d *Deduplicator) Stats(ctx context.Context) (Stats, error) {
	s, _, err := d.state(ctx, "read")
	return s, err
}

// unlinksPerTrip is the number of keys that Clear deletes in one round trip.
const unlinksPerTrip = 1000

// Clear empties the window. Every reader sees it empty at once; then Clear frees the memory, a
// thousand keys a round trip. If that is interrupted, the rest expires within a window.
func (d *Deduplicator) Clear(ctx context.Context) error {
	_, tables, err := d.state(ctx, "clear")
	if err != nil {
		return err
	}
	var keys []string
	for _, t := range tables {
		keys = append(keys, t.prefix+"i")
		for k := range t.chunks {
			keys = append(keys, t.prefix+strconv.FormatInt(k, 10))
		}
	}
	client := d.server.Client()
	for part := range slices.Chunk(keys, unlinksPerTrip) {
		cmds := make(rueidis.Commands, 0, len(part))
		for _, key := range part {
			cmds = append(cmds, client.B().Unlink().Key(key).Build())
		}
		for _, r := range client.DoMulti(ctx, cmds...) {
			if err := r.Error(); err != nil {
				return fmt.Errorf("dedup: clear: %w", err)
			}
		}
	}
	return nil
}

// table is one table of the window, see tables.lua.
type table struct {
	prefix     string // of its keys
	chunks     int64  // of its log
	chunkBytes int64
	indexBytes int64
}

// tableFields is the number of elements that state.lua replies for each table.
const tableFields = 4

// state runs state.lua: it counts, and with what = "clear" it also replaces the tables by an empty
// one.
func (d *Deduplicator) state(ctx context.Context, what string) (Stats, []table, error) {
	reply, err := d.run(ctx, stateScript, d.keys, append(slices.Clip(d.head), what)).ToArray()
	if err != nil {
		return Stats{}, nil, fmt.Errorf("dedup: %s: %w", what, err)
	}
	if len(reply)%tableFields != 1 {
		return Stats{}, nil, fmt.Errorf("dedup: %s: unexpected reply: got %d elements, want 1 and %d a table", what, len(reply), tableFields)
	}
	var stats Stats
	if stats.IDs, err = reply[0].AsInt64(); err != nil {
		return Stats{}, nil, fmt.Errorf("dedup: %s: %w", what, err)
	}
	var tables []table
	for f := range slices.Chunk(reply[1:], tableFields) {
		var t table
		t.prefix, err = f[0].ToString()
		for i, n := range []*int64{&t.chunks, &t.chunkBytes, &t.indexBytes} {
			if err == nil {
				*n, err = f[1+i].AsInt64()
			}
		}
		if err != nil {
			return Stats{}, nil, fmt.Errorf("dedup: %s: %w", what, err)
		}
		tables = append(tables, t)
		stats.Tables++
		stats.Bytes += t.chunks*t.chunkBytes + t.indexBytes
	}
	return stats, tables, nil
}
