package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/rueidis"
)

// AuditReport is what Audit found.
type AuditReport struct {
	Stats Stats // the books as they were
	// Batches and Records were counted in the sealed lists, Dead and Delayed in theirs.
	Batches, Records, Dead, Delayed int64
	// Quiet says that nothing moved meanwhile, so that the sums could be compared with the books. Each batch by itself is
	// compared anyway.
	Quiet bool
	// Differences says where something is off. Empty: nowhere.
	Differences []string
}

// Audit recounts the queue for real, and says where it differs from the books: every batch, every dead and delayed record, and keys under the queue's
// name that belong to nothing. It reads in pages and holds nobody up, but it walks the key space of the
// server: it is for a person or a test, not for a dashboard.
func (q *Queue) Audit(ctx context.Context) (AuditReport, error) {
	var a AuditReport
	for range 3 { // with luck nothing moves in one of them
		var err error
		if a, err = q.audit(ctx); err != nil || a.Quiet {
			return a, err
		}
	}
	return a, nil
}

func (q *Queue) audit(ctx context.Context) (a AuditReport, err error) {
	if a.Stats, err = q.Stats(ctx); err != nil {
		return a, err
	}
	off := func(format string, args ...any) { a.Differences = append(a.Differences, fmt.Sprintf(format, args...)) }
	ids := map[string]bool{}
	for _, k := range []int{kOpen, kLeases, kRedo, kHanded} {
		if err := q.members(ctx, q.keys[k], ids); err != nil {
			return a, err
		}
	}
	dead, delayed := map[string]bool{}, map[string]bool{}
	if err := q.members(ctx, q.prefix+"dead", dead); err != nil {
		return a, err
	}
	if err := q.members(ctx, q.keys[kDelayed], delayed); err != nil {
		return a, err
	}
	deadKeys := map[string]bool{}
	if err := q.scan(ctx, func(kind, id string) {
		switch kind {
		case "b", "m":
			ids[id] = true // what is sound will be seen to be
		case "d":
			deadKeys[id] = true
		case "l":
			delayed[id] = true
		}
	}); err != nil {
		return a, err
	}
	states := map[string]int64{}
	all := make([]string, 0, len(ids))
	for id := range ids {
		all = append(all, id)
	}
	for p := range slices.Chunk(all, page) {
		rows, err := q.run(ctx, auditScript, true, append([]string{q.prefix}, p...)...).ToArray()
		if err != nil {
			return a, wrap("audit", err)
		}
		for i, row := range rows {
			v, err := row.ToArray()
			if err != nil || len(v) != 4 {
				return a, wrap("audit", fmt.Errorf("strange reply: %w", err))
			}
			n, _ := v[0].AsInt64()
			st, _ := v[1].ToString()
			length, _ := v[2].AsInt64()
			at, _ := v[3].ToString()
			if n < 0 && length == 0 && at == "" {
				continue // settled while we looked
			}
			a.Batches++
			a.Records += length
			states[st] += length
			want := map[string]string{"L": "L", "S": "L", "R": "R", "H": "H"}[st]
			switch {
			case n < 0:
				off("batch %s: its meta hash is gone (list: %d records, sets: %q)", p[i], length, at)
			case n != length:
				off("batch %s: its list has %d records, not %d", p[i], length, n)
			case want == "" || len(at) != 2 || !strings.Contains(at, want) || !strings.Contains(at, "O"):
				off("batch %s: its state is %q, and it is in the sets %q", p[i], st, at)
			}
		}
	}
	for id := range dead {
		if !deadKeys[id] {
			off("dead record %s: its hash is gone", id)
		}
	}
	for id := range deadKeys {
		if !dead[id] {
			off("dead record %s: it is not in the list", id)
		}
	}
	a.Dead = int64(len(dead))
	for id := range delayed {
		n, err := q.c.Do(ctx, q.c.B().Llen().Key(q.prefix+"l:"+id).Build()).AsInt64()
		if err != nil {
			return a, wrap("audit", err)
		}
		a.Delayed += n
	}
	after, err := q.Stats(ctx)
	if err != nil {
		return a, err
	}
	before := a.Stats
	before.OldestAge, after.OldestAge = 0, 0
	before.Ready, after.Ready = 0, 0 // producers may go on
	a.Quiet = before == after
	if !a.Quiet {
		// What moved between two pages looks off for a moment.
		return a, nil
	}
	for _, c := range []struct {
		what          string
		books, counts int64
	}{
		{"records in flight", a.Stats.InFlight, a.Records},
		{"records handed off", a.Stats.HandedOff, states["H"]},
		{"dead records", a.Stats.Dead, a.Dead},
		{"delayed records", a.Stats.Delayed, a.Delayed},
		{"taken = acked + in flight + dead + dropped", a.Stats.Taken, a.Stats.Acked + a.Stats.InFlight + a.Stats.Dead + a.Stats.Discarded},
	} {
		if c.books != c.counts {
			off("%s: the books say %d, the count %d", c.what, c.books, c.counts)
		}
	}
	return a, nil
}

// members adds the members of a sorted set to ids.
func (q *Queue) members(ctx context.Context, key string, ids map[string]bool) error {
	for cursor := uint64(0); ; {
		e, err := q.c.Do(ctx, q.c.B().Zscan().Key(key).Cursor(cursor).Count(1000).Build()).AsScanEntry()
		if err != nil {
			return wrap("audit", err)
		}
		for i := 0; i < len(e.Elements); i += 2 {
			ids[e.Elements[i]] = true
		}
		if cursor = e.Cursor; cursor == 0 {
			return nil
		}
	}
}

// scan calls f for the keys {name}:kind:id on every node.
func (q *Queue) scan(ctx context.Context, f func(kind, id string)) error {
	glob := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(q.prefix) + "[bmdl]:*"
	for _, node := range q.nodes() {
		for cursor := uint64(0); ; {
			e, err := node.Do(ctx, node.B().Scan().Cursor(cursor).Match(glob).Count(1000).Build()).AsScanEntry()
			if err != nil {
				return wrap("audit", err)
			}
			for _, key := range e.Elements {
				if kind, id, ok := strings.Cut(strings.TrimPrefix(key, q.prefix), ":"); ok {
					f(kind, id)
				}
			}
			if cursor = e.Cursor; cursor == 0 {
				break
			}
		}
	}
	return nil
}

func (q *Queue) nodes() []rueidis.Client {
	var out []rueidis.Client
	for _, n := range q.c.Nodes() {
		out = append(out, n)
	}
	return out
}
