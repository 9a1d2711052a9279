package queue

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/internal/uid"
)

// AuditReport is what Audit counted.
type AuditReport struct {
	Stats Stats // the books at the beginning
	// Batches and Records were counted in the sealed lists, Dead and Delayed in theirs.
	Batches, Records, Dead, Delayed int64
	// Quiet reports that nothing moved in between, so the sums could be compared with the books. The
	// keys of each batch are compared in any case; while something moves, only what two passes in a
	// row find is a difference.
	Quiet bool
	// Differences describe what is inconsistent. A sound queue has none.
	Differences []string
}

// Balanced returns nil if the audit found no differences, or ErrImbalance with the first one and
// their number.
func (a AuditReport) Balanced() error {
	if len(a.Differences) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d differences, the first: %s", ErrImbalance, len(a.Differences), a.Differences[0])
}

// auditTries is how often Audit counts anew when something moved.
const auditTries = 3

// Audit recounts the queue and compares it with the books: every batch, every dead and delayed
// record, and the keys under the queue's prefix that belong to nothing. It reads in pages and
// blocks no other client for long, but it walks the key space of the server: it is for an operator
// or a test, not for a dashboard. A shared key of another type ends it with a *WrongTypeError, and
// data of another version with a *LayoutError. Repair mends what it finds.
func (q *Queue) Audit(ctx context.Context) (AuditReport, error) {
	a, err := q.auditInPasses(ctx)
	return a.report, err
}

// auditInPasses counts until nothing moves meanwhile, a few times at most. What moves between two
// reads of a pass looks like a difference to it, and the next pass does not find that again.
func (q *Queue) auditInPasses(ctx context.Context) (*auditRun, error) {
	var before *auditRun
	for try := 1; ; try++ {
		a, err := q.audit(ctx)
		if err != nil || a.report.Quiet {
			return a, err
		}
		if try == auditTries {
			a.keepOnly(before.found)
			return a, nil
		}
		before = a
	}
}

// auditRun is one pass of Audit.
type auditRun struct {
	report  AuditReport
	records map[string]int64 // by state of their batch
	found   []finding

	reservations, reserved int64 // of bounded pushes, and the counter of them, read in one step
}

// finding is one inconsistency, with the id of the batch or dead letter that has it.
type finding struct {
	kind findingKind
	id   string
}

type findingKind uint8

const (
	brokenBatch   findingKind = iota + 1
	lostDead                  // in the dead-letter list, without a hash
	unlistedDead              // a hash that is not in the dead-letter list
	lostDelayed               // in the set of delayed pushes, without a list
	unlistedDelay             // a complete list that is not in the set
	oddDead                   // a dead letter with a field that holds no number
	reservedSum               // the sum of the reservations is off
	oddDelay                  // a delayed push that is due at no time
	expiringKey               // a key, which is the id, with a time to live
	strayKey                  // a key that belongs to nothing; the id is its name without the prefix
)

// differ records a difference. It bounds the texts, which another program may have written.
func (a *auditRun) differ(f finding, format string, args ...any) {
	for i, arg := range args {
		if text, ok := arg.(string); ok {
			args[i] = shown(text)
		}
	}
	a.found = append(a.found, f)
	a.report.Differences = append(a.report.Differences, fmt.Sprintf(format, args...))
}

// keepOnly drops the findings that are not among those of another pass.
func (a *auditRun) keepOnly(found []finding) {
	differences := a.report.Differences
	a.report.Differences = nil
	kept := a.found[:0]
	for i, f := range a.found {
		if slices.Contains(found, f) {
			kept = append(kept, f)
			a.report.Differences = append(a.report.Differences, differences[i])
		}
	}
	a.found = kept
}

func (q *Queue) audit(ctx context.Context) (*auditRun, error) {
	a := &auditRun{records: map[string]int64{}}
	err := q.checkTypes(ctx)
	if err != nil {
		return a, err
	}
	if err := q.checkLayout(ctx); err != nil {
		return a, err
	}
	if a.report.Stats, err = q.Stats(ctx); err != nil {
		return a, err
	}
	if err := q.auditExpiry(ctx, a); err != nil {
		return a, err
	}
	keys, err := q.auditKeys(ctx)
	if err != nil {
		return a, err
	}
	for _, count := range []func(context.Context, *auditRun, auditKeys) error{q.auditBatches, q.auditDead, q.auditDelayed, q.auditStray} {
		if err := count(ctx, a, keys); err != nil {
			return a, err
		}
	}
	after, err := q.Stats(ctx)
	if err != nil {
		return a, err
	}
	if a.report.Quiet = still(a.report.Stats) == still(after); a.report.Quiet {
		a.compareSums()
	}
	return a, nil
}

// still removes what changes in a queue at rest: the clock, and what producers do.
func still(s Stats) Stats {
	s.At, s.OldestAge, s.ClockBehind, s.Ready, s.Reserved = time.Time{}, 0, 0, 0, 0
	return s
}

// auditedBatch is what audit.lua returns of a batch.
type auditedBatch struct {
	records int64  // by its hash; -1: no hash, -2: not a hash
	state   string // by its hash
	length  int64  // of its list; -1: not a list
	sets    string // a letter for each set that has it
	odd     string // its id, first field or score that the queue does not write, with its text

	listExpires, hashExpires int64 // in ms; negative: never
}

// gone reports whether nothing is left of the batch.
func (b auditedBatch) gone() bool {
	return b.records == -1 && b.length == 0 && b.sets == "" && b.hashExpires == keyGone
}

// keyGone is the reply of PTTL for a key that does not exist.
const keyGone = -2

// setOf is the set of each state of a batch.
var setOf = map[string]string{"L": "L", "S": "L", "R": "R", "H": "H", "B": "B"}

// fault describes what is inconsistent in a batch. "": it is sound.
func (b auditedBatch) fault() string {
	set := setOf[b.state]
	switch {
	case b.records == -2:
		return "its meta key is not a hash"
	case b.records == -1 && b.hashExpires != keyGone:
		return "its meta hash has none of its fields"
	case b.records == -1:
		return fmt.Sprintf("its meta hash is gone (list: %d records, sets: %q)", b.length, b.sets)
	case b.length == -1:
		return "its list is of another type"
	case b.odd != "":
		return fmt.Sprintf("%q is nothing that the queue writes", b.odd)
	case b.records != b.length:
		return fmt.Sprintf("its list has %d records, want %d", b.length, b.records)
	case b.state == "B":
		return "it was set aside as broken, and is whole again"
	case set == "" || len(b.sets) != 2 || !strings.Contains(b.sets, set) || !strings.Contains(b.sets, "O"):
		return fmt.Sprintf("its state is %q, and it is in the sets %q", b.state, b.sets)
	}
	return ""
}

func (q *Queue) auditBatches(ctx context.Context, a *auditRun, keys auditKeys) error {
	pages := slices.Collect(slices.Chunk(sorted(keys.batches), longPage))
	if len(pages) == 0 {
		pages = [][]string{nil} // for the sums
	}
	for _, ids := range pages {
		batches, err := q.readAudited(ctx, a, ids)
		if err != nil {
			return err
		}
		for i, b := range batches {
			if b.gone() {
				continue // settled since the keys were listed
			}
			a.report.Batches++
			a.report.Records += max(b.length, 0)
			a.records[b.state] += max(b.length, 0)
			if fault := b.fault(); fault != "" {
				a.differ(finding{brokenBatch, ids[i]}, "batch %s: %s", ids[i], fault)
			}
			a.expires(q.listType(ids[i]).Key, b.listExpires)
			a.expires(q.metaKey(ids[i]), b.hashExpires)
		}
	}
	return nil
}

// readAudited runs audit.lua.
func (q *Queue) readAudited(ctx context.Context, a *auditRun, ids []string) ([]auditedBatch, error) {
	rows, err := q.run(ctx, auditScript, drains, ids...).ToArray()
	if err != nil {
		return nil, q.wrapScript(ctx, "audit", err)
	}
	if len(rows) != 2+len(ids) {
		return nil, unexpected("audit", len(rows), 2+len(ids))
	}
	for i, sum := range []*int64{&a.reservations, &a.reserved} {
		if *sum, err = rows[i].AsInt64(); err != nil {
			return nil, wrap("audit", err)
		}
	}
	rows = rows[2:]
	out := make([]auditedBatch, len(rows))
	for i, row := range rows {
		v, err := row.ToArray()
		if err != nil {
			return nil, wrap("audit", err)
		}
		if len(v) != 7 {
			return nil, unexpected("audit", len(v), 7)
		}
		b := &out[i]
		for j, field := range []any{&b.records, &b.state, &b.length, &b.sets, &b.odd, &b.listExpires, &b.hashExpires} {
			switch field := field.(type) {
			case *string:
				*field, err = v[j].ToString()
			case *int64:
				*field, err = v[j].AsInt64()
			}
			if err != nil {
				return nil, wrap("audit", err)
			}
		}
	}
	return out, nil
}

// expires records that a key expires in ms milliseconds; negative: it does not.
func (a *auditRun) expires(key string, ms int64) {
	if ms >= 0 {
		a.differ(finding{expiringKey, key}, "key %s: it expires in %v, must stay", key, time.Duration(ms)*time.Millisecond)
	}
}

// auditExpiry looks for a time to live of the keys that all batches share.
func (q *Queue) auditExpiry(ctx context.Context, a *auditRun) error {
	keys := q.sharedKeys()
	results := q.server.ReadAll(ctx, func() []rueidis.Completed {
		var cmds []rueidis.Completed
		for _, key := range keys {
			cmds = append(cmds, q.server.Command("PTTL", key))
		}
		return cmds
	})
	for i, key := range keys {
		ms, err := results[i].AsInt64()
		if err != nil {
			return wrap("audit", err)
		}
		a.expires(key, ms)
	}
	return nil
}

// auditStray names the keys that belong to nothing.
func (q *Queue) auditStray(_ context.Context, a *auditRun, keys auditKeys) error {
	for _, name := range sorted(keys.stray) {
		a.differ(finding{strayKey, name}, "key %s: it belongs to nothing", q.prefix+name)
	}
	return nil
}

// lastTime is the last time in milliseconds that is valid to the scripts: MAX_AHEAD_MS of
// internal/redisx after the server's clock.
func (a *auditRun) lastTime() int64 { return a.report.Stats.At.UnixMilli() + 3_155_760_000_000 - 1 }

// isID reports whether a text is an id of a batch, as isID in common.lua does.
func isID(text string) bool {
	_, err := uid.Parse(text)
	return err == nil
}

// maxName bounds how much of a key or an id is in a text.
const maxName = 512

// shown bounds a key or an id, and replaces what a log cannot print.
func shown(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, cut(text, maxName))
}

// maxText bounds how much of a text that should be a number is quoted in a message.
const maxText = 64

// maxNumber is the last integer with which scripts calculate, and so the last time that PushAt
// writes, in milliseconds.
const maxNumber = 1<<53 - 1

// isNumber reports whether a text is a number to the scripts, from 0 to most; see number.lua of
// internal/redisx.
func isNumber(text string, most int64) bool {
	n, err := strconv.ParseInt(text, 10, 64)
	return err == nil && n >= 0 && n <= most && strconv.FormatInt(n, 10) == text
}

func (q *Queue) auditDelayed(ctx context.Context, a *auditRun, keys auditKeys) error {
	for ids := range slices.Chunk(sorted(union(keys.delayed, keys.delayedLists)), page) {
		results := q.server.ReadAll(ctx, func() []rueidis.Completed {
			var cmds []rueidis.Completed
			for _, id := range ids {
				key := q.prefix + "l:" + id
				cmds = append(cmds, q.server.Command("LLEN", key), q.server.Command("PTTL", key), q.server.Command("ZSCORE", q.keys[keyDelayed], id))
			}
			return cmds
		})
		for i, id := range ids {
			n, err := results[3*i].AsInt64()
			if redisx.IsWrongType(err) {
				a.differ(finding{lostDelayed, id}, "delayed push %s: its list is of another type", id)
				continue
			}
			if err != nil {
				return wrap("audit", err)
			}
			ttl, err := results[3*i+1].AsInt64()
			if err != nil {
				return wrap("audit", err)
			}
			due, err := results[3*i+2].AsFloat64()
			if err != nil && !rueidis.IsRedisNil(err) {
				return wrap("audit", err)
			}
			switch listed := keys.delayed[id]; {
			case listed && n == 0:
				a.differ(finding{lostDelayed, id}, "delayed push %s: its list is gone", id)
			case !listed && n > 0 && (ttl < 0 || ttl > delayLasts.Milliseconds()): // another one is still being pushed
				a.differ(finding{unlistedDelay, id}, "delayed push %s: %d records that are not in the set", id, n)
			case listed:
				a.report.Delayed += n
				if due > maxNumber {
					a.differ(finding{oddDelay, id}, "delayed push %s: it is due at %g, which is no time", id, due)
				}
				a.expires(q.prefix+"l:"+id, ttl)
			}
		}
	}
	return nil
}

// compareSums compares the books with what was counted.
func (a *auditRun) compareSums() {
	s := a.report.Stats
	for _, c := range []struct {
		what           string
		books, counted int64
	}{
		{"records in flight", s.InFlight, a.report.Records},
		{"records handed off", s.HandedOff, a.records["H"]},
		{"dead records", s.Dead, a.report.Dead},
		{"delayed records", s.Delayed, a.report.Delayed},
	} {
		if c.books != c.counted {
			a.differ(finding{}, "%s: the books have %d, the count %d", c.what, c.books, c.counted)
		}
	}
	if a.reservations != a.reserved && !strings.Contains(s.Damaged, "reserved") {
		a.differ(finding{reservedSum, ""}, "reserved records: the books have %d, the reservations %d", a.reserved, a.reservations)
	}
	if err := s.Balanced(); err != nil {
		a.differ(finding{}, "%s", strings.TrimPrefix(err.Error(), ErrImbalance.Error()+": "))
	}
}
