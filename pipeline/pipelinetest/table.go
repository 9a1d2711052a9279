package pipelinetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/headrace/headrace/staging"
)

// Table is a staged table in memory. It implements pipeline.Table and is safe for concurrent use.
type Table[T any] struct {
	// Key returns the unique key of a row. A row whose key exists is a conflict and is not written.
	// Nil: there is no key.
	Key func(T) string
	// Reject takes the place of the rules: a row for which it returns an error is rejected at
	// promotion. Nil: none.
	Reject func(T) error
	// ID returns the id, in the dedup window, of a row that Reject rejects. Nil: its claim is kept.
	ID func(T) string

	mu      sync.Mutex
	epoch   int
	staged  map[string]staging.Load[T]
	order   []string // of the staged batches
	ledger  map[string]entry
	keys    map[string]bool
	rows    []T
	rejects map[string][]staging.Reject
}

type entry struct {
	fate staging.Fate
	at   time.Time
	sums staging.Books
}

// NewTable returns an empty table.
func NewTable[T any]() *Table[T] {
	return &Table[T]{staged: map[string]staging.Load[T]{}, ledger: map[string]entry{}, keys: map[string]bool{}, rejects: map[string][]staging.Reject{}}
}

// Crash empties staging, as a crash of Postgres does.
func (t *Table[T]) Crash() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.staged)
	t.order = nil
	t.epoch++
}

// Rows returns the rows that were promoted, in order.
func (t *Table[T]) Rows() []T {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.rows)
}

// Stage stages a batch once.
func (t *Table[T]) Stage(_ context.Context, l staging.Load[T]) (staging.Outcome, error) {
	kept := map[int32]bool{}
	for i := range l.Rows {
		kept[posOf(l, i)] = true
	}
	if len(kept)+l.Duplicates+l.Filtered+len(l.Rejects) != l.Batch.Records {
		return 0, fmt.Errorf("%w: batch %s: %d records are not %d kept + %d duplicates + %d filtered + %d rejected",
			staging.ErrLoad, l.Batch.ID, l.Batch.Records, len(kept), l.Duplicates, l.Filtered, len(l.Rejects))
	}
	if l.Encoding != nil {
		if err := l.Encoding(true); err != nil {
			return 0, err
		}
		_ = l.Encoding(false)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch t.ledger[l.Batch.ID].fate {
	case staging.FatePromoted:
		return staging.OutcomeAlreadyPromoted, nil
	case staging.FateVoid:
		return staging.OutcomeAlreadyVoid, nil
	}
	if _, ok := t.staged[l.Batch.ID]; ok {
		return staging.OutcomeAlreadyStaged, nil
	}
	t.staged[l.Batch.ID] = l
	t.order = append(t.order, l.Batch.ID)
	return staging.OutcomeStaged, nil
}

func posOf[T any](l staging.Load[T], i int) int32 {
	if l.Pos == nil {
		return int32(i)
	}
	return l.Pos[i]
}

// Void makes a batch void unless it is promoted.
func (t *Table[T]) Void(_ context.Context, b staging.Batch) (staging.Fate, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.ledger[b.ID]
	if !ok {
		e = entry{fate: staging.FateVoid, at: time.Now(), sums: staging.Books{Void: 1}}
		t.ledger[b.ID] = e
	}
	return e.fate, nil
}

// Fates returns where batches are.
func (t *Table[T]) Fates(_ context.Context, ids []string) ([]staging.Fate, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]staging.Fate, len(ids))
	for i, id := range ids {
		if e, ok := t.ledger[id]; ok {
			out[i] = e.fate
		} else if _, ok := t.staged[id]; ok {
			out[i] = staging.FateStaged
		}
	}
	return out, nil
}

// RejectsByBatch returns the rejected records of promoted batches.
func (t *Table[T]) RejectsByBatch(_ context.Context, ids []string) (map[string][]staging.Reject, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string][]staging.Reject{}
	for _, id := range ids {
		if r := t.rejects[id]; len(r) > 0 {
			out[id] = slices.Clone(r)
		}
	}
	return out, nil
}

// Promote moves all staged batches into the table and the ledger.
func (t *Table[T]) Promote(context.Context, staging.PromoteOptions) (p staging.PromoteResult, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range t.order {
		l := t.staged[id]
		if e, ok := t.ledger[id]; ok { // a late copy
			p.Batches = append(p.Batches, staging.PromotedBatch{ID: id, Fate: e.fate})
			continue
		}
		sums := t.promote(l)
		t.ledger[id] = entry{fate: staging.FatePromoted, at: time.Now(), sums: sums}
		p.Batches = append(p.Batches, staging.PromotedBatch{ID: id, Fate: staging.FatePromoted})
		p.Records += int(sums.Records)
		p.Kept += int(sums.Kept)
		p.Duplicates += int(sums.Duplicates)
		p.Filtered += int(sums.Filtered)
		p.Rejected += int(sums.Rejected)
		p.Rows += int(sums.Rows)
		p.Conflicts += int(sums.Conflicts)
		p.RejectedByRule += int(sums.RejectedByRule)
	}
	clear(t.staged)
	t.order = nil
	p.Epoch = t.epochName()
	return p, nil
}

func (t *Table[T]) promote(l staging.Load[T]) staging.Books {
	b := staging.Books{
		Batches: 1, Records: int64(l.Batch.Records), Duplicates: int64(l.Duplicates), Filtered: int64(l.Filtered),
		Rejected: int64(len(l.Rejects)), Staged: int64(len(l.Rows)),
	}
	b.Kept = b.Records - b.Duplicates - b.Filtered - b.Rejected
	file := func(r staging.Reject) {
		r.Root, r.Place = l.Batch.Root, l.Batch.Offset+int(r.Pos)
		t.rejects[l.Batch.ID] = append(t.rejects[l.Batch.ID], r)
	}
	for _, r := range l.Rejects {
		file(r)
	}
	left := map[int32]int{} // rows of a record that were not rejected
	for i := range l.Rows {
		left[posOf(l, i)]++
	}
	for i, row := range l.Rows {
		if t.Reject != nil {
			if err := t.Reject(row); err != nil {
				b.RejectedByRule++
				pos := posOf(l, i)
				r := staging.Reject{Pos: pos, Code: codeOf(err), Reason: err.Error()}
				if left[pos]--; left[pos] == 0 && t.ID != nil {
					r.Key = t.ID(row) // the claim goes back only when every row was rejected
				}
				file(r)
				continue
			}
		}
		if t.Key != nil {
			if key := t.Key(row); t.keys[key] {
				b.Conflicts++
				continue
			} else {
				t.keys[key] = true
			}
		}
		t.rows = append(t.rows, row)
		b.Rows++
	}
	return b
}

func codeOf(err error) string {
	var coded interface{ RejectCode() string }
	if errors.As(err, &coded) {
		return coded.RejectCode()
	}
	return "rejected"
}

// Epoch changes with each Crash.
func (t *Table[T]) Epoch(context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.epochName(), nil
}

func (t *Table[T]) epochName() string { return fmt.Sprintf("epoch %d", t.epoch) }

// BooksSince sums the ledger over the batches committed since a time.
func (t *Table[T]) BooksSince(_ context.Context, since time.Time) (b staging.Books, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.ledger {
		if e.at.Before(since) {
			continue
		}
		s := e.sums
		b.Batches += s.Batches
		b.Void += s.Void
		b.Records += s.Records
		b.Kept += s.Kept
		b.Duplicates += s.Duplicates
		b.Filtered += s.Filtered
		b.Rejected += s.Rejected
		b.Staged += s.Staged
		b.Rows += s.Rows
		b.Conflicts += s.Conflicts
		b.RejectedByRule += s.RejectedByRule
	}
	return b, nil
}
