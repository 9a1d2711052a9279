package dedup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// Stats describes the contents of a window.
type Stats struct {
	// IDs estimates how many ids are in the window. It interpolates between counts that are taken
	// several times per window. Ids that were given back or forgotten count until they would have left
	// the window.
	IDs int64
	// Tables is the number of tables. It is usually one, and more for one window after the size or
	// Config.Window has changed.
	Tables int
	// Bytes is the size of all tables: their indexes and logs, without the server's overhead.
	Bytes int64
	// ClockBehind is how far the server's clock is behind the window's own clock, because the server's
	// was set back.
	ClockBehind time.Duration
	// LostTables counts the tables whose keys were deleted or evicted since the window was created or
	// cleared. Their claims are forgotten, so duplicates of them may have passed.
	LostTables int64
}

// Stats reads the counts of the window, in O(1).
func (d *Deduplicator) Stats(ctx context.Context) (Stats, error) {
	s, err := d.state(ctx, "read")
	if err != nil {
		return Stats{}, err
	}
	return s.stats(), nil
}

func (s state) stats() Stats {
	stats := Stats{IDs: s.ids, Tables: len(s.stored), ClockBehind: time.Duration(s.aheadMS) * time.Millisecond, LostTables: s.lost}
	for _, t := range s.stored {
		stats.Bytes += t.chunks*t.chunkBytes + t.indexBytes
	}
	return stats
}

// unlinksPerTrip is the number of keys that Clear deletes in one round trip: up to 1 MB each, freed
// at once.
const unlinksPerTrip = 16

// Clear empties the window. Every reader sees it empty at once. Clear then frees the memory, a few
// keys per round trip. If it is interrupted, the remaining keys expire.
func (d *Deduplicator) Clear(ctx context.Context) error {
	s, err := d.state(ctx, "clear")
	if errors.Is(err, ErrDamaged) { // its tables cannot be found any more; they expire
		if err := d.server.Client().Do(ctx, d.server.Client().B().Unlink().Key(d.keys[0]).Build()).Error(); err != nil {
			return fmt.Errorf("dedup: clear: %w", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	var keys []string
	for _, t := range s.stored {
		keys = append(keys, t.keys()...)
	}
	client := d.server.Client()
	for some := range slices.Chunk(keys, unlinksPerTrip) {
		cmds := make(rueidis.Commands, 0, len(some))
		for _, key := range some {
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

// state is the reply of state.lua.
type state struct {
	ids, aheadMS, lost int64
	version            int64 // of the server, 0 if unknown
	stored             []storedTable
}

// storedTable is a table and its size.
type storedTable struct {
	table
	prefix     string // of its keys
	chunks     int64  // of its log
	chunkBytes int64
	indexBytes int64
	built      int64 // segments of its index
	tail       int64 // where its log ends
	alive      int64 // from here on, all entries are in the window
	lifeMS     int64 // the time to live of its keys
	claims     int64 // that it was given
}

// keys returns the keys of the index and of the log.
func (t storedTable) keys() []string {
	var keys []string
	for k := range int64(t.segments) {
		keys = append(keys, t.prefix+"i"+strconv.FormatInt(k, 10))
	}
	for k := range t.chunks {
		keys = append(keys, t.prefix+strconv.FormatInt(k, 10))
	}
	return keys
}

// The number of elements of a reply of state.lua, before the tables and for each.
const (
	stateFields       = 4
	storedTableFields = tableFields + 8
)

// state runs state.lua: it counts, and with what = "clear" it also replaces the tables by an empty
// one.
func (d *Deduplicator) state(ctx context.Context, what string) (state, error) {
	s, err := d.readState(ctx, what)
	if err != nil {
		return state{}, fmt.Errorf("dedup: %s: %w", what, d.scriptErr(ctx, err, ""))
	}
	return s, nil
}

func (d *Deduplicator) readState(ctx context.Context, what string) (s state, err error) {
	f, err := d.run(ctx, stateScript, d.keys, d.args(what)).ToArray()
	if err != nil {
		return s, err
	}
	if len(f)%storedTableFields != stateFields {
		return s, fmt.Errorf("unexpected reply: got %d elements, want %d and %d for each table", len(f), stateFields, storedTableFields)
	}
	for i, n := range []*int64{&s.ids, &s.aheadMS, &s.lost, &s.version} {
		if *n, err = f[i].AsInt64(); err != nil {
			return s, err
		}
	}
	var known []table
	for f := range slices.Chunk(f[stateFields:], storedTableFields) {
		var t storedTable
		if t.table, err = parseTable(f); err != nil {
			return s, err
		}
		if t.prefix, err = f[tableFields].ToString(); err != nil {
			return s, err
		}
		for i, n := range []*int64{&t.built, &t.chunks, &t.chunkBytes, &t.tail, &t.alive, &t.lifeMS, &t.claims} {
			if *n, err = f[tableFields+1+i].AsInt64(); err != nil {
				return s, err
			}
		}
		t.indexBytes = t.built * int64(t.slots/t.segments) * 4
		s.stored, known = append(s.stored, t), append(known, t.table)
	}
	if what == "read" {
		d.tables.Store(&known)
	}
	return s, nil
}
