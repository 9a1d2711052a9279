package dedup

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// AuditReport is the result of Audit.
type AuditReport struct {
	// Stats are those of the window, zero if its state is damaged.
	Stats Stats
	// Keys counts the keys of the tables that are there.
	Keys int
	// Differences name the keys that are not as they should be: deleted or overwritten by hand, of
	// another type, too short, or without a time to live.
	Differences []string

	found []fault
}

// Balanced returns nil if the audit found no difference, or an [ErrDamaged] that names the first
// ones.
func (r AuditReport) Balanced() error {
	const most = 5
	if len(r.Differences) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d differences: %s", ErrDamaged, len(r.Differences), strings.Join(r.Differences[:min(most, len(r.Differences))], "; "))
}

// RepairReport is the result of Repair.
type RepairReport struct {
	// Mended counts the keys that were changed. Aside are the names that keys of another type, or a
	// damaged state, have now. They are the operator's to inspect and delete.
	Mended int
	Aside  []string
	// After is an audit after the repair.
	After AuditReport
}

// fault is a key that is not as it should be, and how it is mended.
type fault struct {
	key, text string
	action    string // of mend.lua; "": none
	detail    string // the value of a damaged state
	bytes     int64  // how long the key must be; 0: it is given up, or long enough
	lifeMS    int64  // its time to live
}

// The actions of mend.lua.
const actAside, actState, actExpire, actLength, actForget = "aside", "state", "expire", "length", "forget"

// Audit reads every key of the window, and compares them with its state. It changes nothing. It
// takes a round trip for every 100 keys, and one for every 1,000 keys of the server. Audit reads
// each difference again; one that is gone, because the window moved, does not count.
func (d *Deduplicator) Audit(ctx context.Context) (AuditReport, error) {
	first, err := d.audit(ctx)
	if err != nil || len(first.found) == 0 {
		return first, err
	}
	second, err := d.audit(ctx)
	if err != nil {
		return second, err
	}
	second.found = slices.DeleteFunc(second.found, func(f fault) bool { return !slices.Contains(first.found, f) })
	second.Differences = nil
	for _, f := range second.found {
		second.Differences = append(second.Differences, f.key+" "+f.text)
	}
	return second, nil
}

// Repair mends what Audit finds. Lost claims stay lost: their ids are fresh again. Every later
// claim is correct.
//
//   - A key of another type, or a state that cannot be read, is renamed to {name}:dedup:aside:….
//   - The next claim abandons a table whose index is gone, with all claims in it.
//   - A part of an index or of the log that is gone or too short is recreated, without its claims.
//   - A key without a time to live gets one.
//   - A key that belongs to no table, because the state was deleted, expires at once.
//
// Several processes may call it, and repeat it.
func (d *Deduplicator) Repair(ctx context.Context) (r RepairReport, err error) {
	for range repairRounds {
		if r.After, err = d.Audit(ctx); err != nil || len(r.After.found) == 0 {
			return r, err
		}
		for _, f := range r.After.found {
			if err := d.mend(ctx, f, &r); err != nil {
				return r, fmt.Errorf("dedup: repair %s: %w", f.key, err)
			}
		}
		if _, err := d.state(ctx, "mend"); err != nil { // gives up the tables that are lost
			return r, err
		}
	}
	r.After, err = d.Audit(ctx)
	return r, err
}

// repairRounds is how often Repair mends what Audit finds: a state or a table that the first round
// gives up leaves keys behind.
const repairRounds = 3

// mend runs mend.lua for one fault.
func (d *Deduplicator) mend(ctx context.Context, f fault, r *RepairReport) error {
	run := func(args ...string) (bool, error) {
		n, err := d.run(ctx, mendScript, d.keys, args).AsInt64()
		r.Mended += int(n)
		return n == 1, err
	}
	root := strings.TrimSuffix(d.keys[0], "state")
	aside := root + "aside:" + strings.TrimPrefix(f.key, root)
	moved, err := false, error(nil)
	switch f.action {
	case actAside:
		moved, err = run(f.action, f.key, aside)
	case actState:
		moved, err = run(f.action, f.key, f.detail, aside)
	case actForget:
		_, err = run(f.action, f.key)
	case actExpire:
		_, err = run(f.action, f.key, strconv.FormatInt(f.lifeMS, 10))
	}
	if moved {
		r.Aside = append(r.Aside, aside)
	}
	if err == nil && f.bytes > 0 {
		_, err = run(actLength, f.key, strconv.FormatInt(f.bytes, 10), strconv.FormatInt(f.lifeMS, 10))
	}
	return err
}

func (d *Deduplicator) audit(ctx context.Context) (r AuditReport, err error) {
	s, err := d.readState(ctx, "read")
	if err != nil {
		err = d.scriptErr(ctx, err, "")
	}
	if errors.Is(err, ErrDamaged) {
		f, err := d.auditState(ctx)
		if err != nil {
			return r, fmt.Errorf("dedup: audit: %w", err)
		}
		r.add(f)
		return r, d.auditOrphans(ctx, &r, nil, math.MaxInt64)
	}
	if err != nil {
		return r, fmt.Errorf("dedup: audit: %w", err)
	}
	r.Stats = s.stats()
	ttl, err := d.server.Read(ctx, "PTTL", d.keys[0]).AsInt64()
	if err != nil {
		return r, fmt.Errorf("dedup: audit: %w", err)
	}
	if ttl == -1 {
		r.add(fault{key: d.keys[0], action: actExpire, lifeMS: d.cfg.Window.Milliseconds() + 1000, text: "has no time to live"})
	}
	for _, t := range s.stored {
		if t.tooLong() {
			f, err := d.auditState(ctx)
			if err != nil {
				return r, fmt.Errorf("dedup: audit: %w", err)
			}
			r.add(f)
			return r, nil
		}
		if err := d.auditTable(ctx, &r, t); err != nil {
			return r, fmt.Errorf("dedup: audit: %w", err)
		}
	}
	if len(s.stored) > 0 {
		return r, d.auditOrphans(ctx, &r, s.stored, math.MaxInt64)
	}
	// The state outlives its last id by a second, and the keys of the tables by an eighth of a window.
	// After the server's clock was set back, both stay longer by that much.
	return r, d.auditOrphans(ctx, &r, nil, (d.cfg.Window/8+r.Stats.ClockBehind).Milliseconds()+2000)
}

func (r *AuditReport) add(f fault) {
	r.found = append(r.found, f)
	r.Differences = append(r.Differences, f.key+" "+f.text)
}

// auditState describes a state that cannot be read.
func (d *Deduplicator) auditState(ctx context.Context) (fault, error) {
	value, err := d.server.Read(ctx, "GET", d.keys[0]).ToString()
	if redisx.IsWrongType(err) {
		return fault{key: d.keys[0], action: actAside, text: "is of another type than string: all ids are forgotten"}, nil
	}
	return fault{key: d.keys[0], action: actState, detail: value, text: "is not the state of a window: all ids are forgotten"}, err
}

// tooLong reports whether the log of a table is longer than its claims can make it. Repair would
// recreate all of it, up to 4 GB.
func (t storedTable) tooLong() bool {
	const perRun = 4 * runBytes // each has a new claim, and leaves up to as much unused as it has
	return t.claims < math.MaxInt64/perRun/2 && t.tail > (t.claims+1)*perRun+2*t.chunkBytes
}

// wanted is a key that a table should have.
type wanted struct {
	key    string
	bytes  int64
	index  bool // it is a part of the index, not of the log
	needed bool // false: it may have expired
	lifeMS int64
}

// auditTable compares the keys of a table with what they should be.
func (d *Deduplicator) auditTable(ctx context.Context, r *AuditReport, t storedTable) error {
	var keys []wanted
	for k := range t.built {
		keys = append(keys, wanted{key: t.prefix + "i" + strconv.FormatInt(k, 10), bytes: int64(t.slots/t.segments) * 4, index: true, needed: true, lifeMS: t.lifeMS})
	}
	for k := range t.chunks {
		keys = append(keys, wanted{
			key: t.prefix + strconv.FormatInt(k, 10), bytes: t.chunkBytes, lifeMS: t.lifeMS,
			needed: k*t.chunkBytes < t.tail && (k+1)*t.chunkBytes > t.alive && t.alive < t.tail,
		})
	}
	const perTrip = 100
	for some := range slices.Chunk(keys, perTrip) {
		results := d.server.ReadAll(ctx, func() (cmds []rueidis.Completed) {
			for _, w := range some {
				cmds = append(cmds, d.server.Command("TYPE", w.key), d.server.Command("PTTL", w.key), d.server.Command("STRLEN", w.key))
			}
			return cmds
		})
		for i, w := range some {
			kind, err := results[3*i].ToString()
			if err != nil {
				return err
			}
			ttl, err := results[3*i+1].AsInt64()
			if err != nil {
				return err
			}
			length := int64(0)
			if kind == "string" {
				if length, err = results[3*i+2].AsInt64(); err != nil {
					return err
				}
			}
			r.compare(w, kind, ttl, length)
		}
	}
	return nil
}

// compare compares a key with what it should be.
func (r *AuditReport) compare(w wanted, kind string, ttl, length int64) {
	if kind != "none" {
		r.Keys++
	}
	f := fault{key: w.key, lifeMS: w.lifeMS, bytes: w.bytes}
	part := "a part of the log"
	if w.index {
		part = "a part of the index"
	}
	switch {
	case kind == "none" && !w.needed:
		return
	case kind == "none" && w.index:
		f.bytes, f.text = 0, "is gone, "+part+": the table and its ids are forgotten"
	case kind == "none":
		f.text = "is gone, " + part + ": its ids are forgotten"
	case kind != "string":
		f.action, f.text = actAside, "is a "+kind+", want a string, "+part+": its ids are forgotten"
		if w.index {
			f.bytes = 0
		}
	case length < w.bytes:
		f.text = fmt.Sprintf("has %d bytes, want %d, %s: some of its ids are forgotten", length, w.bytes, part)
	case ttl == -1:
		f.action, f.bytes, f.text = actExpire, 0, "has no time to live"
	default:
		return
	}
	r.add(f)
}

// auditOrphans finds keys of tables that the state does not have, and that never expire, or later
// than in latestMS milliseconds.
func (d *Deduplicator) auditOrphans(ctx context.Context, r *AuditReport, tables []storedTable, latestMS int64) error {
	prefix := d.head[1]
	for _, node := range d.server.Nodes() {
		for cursor := uint64(0); ; {
			scan := node.B().Arbitrary("SCAN").Args(strconv.FormatUint(cursor, 10), "MATCH", redisx.EscapeGlob(prefix)+"*", "COUNT", "1000").Build()
			page, err := node.Do(ctx, scan).AsScanEntry()
			if err != nil {
				return fmt.Errorf("dedup: audit: %w", err)
			}
			for _, key := range page.Elements {
				if slices.ContainsFunc(tables, func(t storedTable) bool { return strings.HasPrefix(key, t.prefix) }) {
					continue
				}
				ttl, err := d.server.Read(ctx, "PTTL", key).AsInt64()
				if err != nil {
					return fmt.Errorf("dedup: audit: %w", err)
				}
				switch {
				case ttl == -1:
					r.add(fault{key: key, action: actForget, text: "belongs to no table and has no time to live"})
				case ttl > latestMS:
					r.add(fault{key: key, action: actForget, text: "belongs to a window whose state is gone: its ids are forgotten"})
				}
			}
			if cursor = page.Cursor; cursor == 0 {
				break
			}
		}
	}
	return nil
}
