package pipeline

import (
	"errors"
	"fmt"

	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Batch is a leased batch on its way through a chain. It adds the fate of each record to the
// queue's batch. It belongs to the worker that runs it. Stages use it from one goroutine at a time,
// and not after they have returned.
type Batch struct {
	*queue.Batch

	fate     []Fate   // by position
	keys     []string // by position: ids for the dedup window; nil in a chain without Dedup
	mark     []uint32 // by position: the round in which account met the record
	round    uint32
	rejects  []staging.Reject
	dups     int
	filtered int
	window   Deduplicator         // claims ids in place of the chain's own window; nil: that one does
	keysOnly bool                 // the chain runs only to find the ids: nothing is claimed
	stages   []StageEvent         // what each stage took
	drops    []staging.StageDrops // what each stage dropped
	copies   []bool               // by position: a duplicate that the chain judges all the same; nil: none
	misuse   error                // a stage named a position that it did not receive, or one twice
}

// Fate is how a record left a chain.
type Fate uint8

// The fates.
const (
	FateKept      Fate = iota // it has rows that go into the table
	FateDuplicate             // it is the duplicate of a record that is accounted for
	FateFiltered              // a stage filtered it out
	FateRejected              // a stage rejected it, with a reason
)

// String returns the name of the fate.
func (f Fate) String() string {
	switch f {
	case FateKept:
		return "kept"
	case FateDuplicate:
		return "duplicate"
	case FateFiltered:
		return "filtered"
	case FateRejected:
		return "rejected"
	}
	return fmt.Sprintf("Fate(%d)", uint8(f))
}

func newBatch(qb *queue.Batch) *Batch {
	n := len(qb.Payloads)
	return &Batch{Batch: qb, fate: make([]Fate, n), mark: make([]uint32, n)}
}

// Duplicate drops the record at pos as the duplicate of a record that is accounted for.
func (b *Batch) Duplicate(pos int32) {
	if b.drop(pos, FateDuplicate) {
		b.dups++
	}
}

// Filter drops the record at pos because it is not wanted. It is counted as filtered.
func (b *Batch) Filter(pos int32) {
	if b.drop(pos, FateFiltered) {
		b.filtered++
	}
}

// Reject drops the record at pos because it is bad. The durable rejects table receives its payload,
// the reason for people, and the code for programs, a stable lower-case word such as
// "unknown_product".
func (b *Batch) Reject(pos int32, code, reason string) {
	if !b.drop(pos, FateRejected) {
		return
	}
	r := staging.Reject{Pos: pos, Code: code, Reason: reason, Payload: b.Payloads[pos]}
	if b.keys != nil {
		r.Key = b.keys[pos]
	}
	b.rejects = append(b.rejects, r)
}

// codes counts the rejects by code; nil if there are none.
func (b *Batch) codes() map[string]int {
	var n map[string]int
	for _, r := range b.rejects {
		if n == nil {
			n = make(map[string]int)
		}
		n[r.Code]++
	}
	return n
}

// rejectError rejects a record because of an error of a function in a stage. An error that concerns
// the batch is returned instead.
func (b *Batch) rejectError(pos int32, code string, err error) error {
	if concernsBatch(err) {
		return err
	}
	var coded interface{ RejectCode() string }
	if errors.As(err, &coded) {
		code = coded.RejectCode()
	}
	b.Reject(pos, code, err.Error())
	return nil
}

func (b *Batch) drop(pos int32, f Fate) bool {
	if pos < 0 || int(pos) >= len(b.fate) {
		b.misuse = fmt.Errorf("%w: it dropped position %d of a batch of %d records", ErrUnaccounted, pos, len(b.fate))
		return false
	}
	if b.fate[pos] != FateKept {
		b.misuse = fmt.Errorf("%w: it dropped the record at position %d twice", ErrUnaccounted, pos)
		return false
	}
	b.fate[pos] = f
	return true
}

// judge lets the duplicate at pos pass through the rest of the chain. See CopiesJudged.
func (b *Batch) judge(pos int32) {
	if b.copies == nil {
		b.copies = make([]bool, len(b.Payloads))
	}
	b.copies[pos] = true
}

// copiesStage is the name under which the books count what dropCopies drops.
const copiesStage = "copies"

// dropCopies drops, at the end of a chain, the duplicates that no stage has rejected or filtered.
func dropCopies[T any](b *Batch, out Records[T]) Records[T] {
	if b.copies == nil {
		return out
	}
	kept := Records[T]{Values: out.Values[:0], Pos: out.Pos[:0]}
	before := b.dups
	for i, pos := range out.Pos {
		switch {
		case !b.copies[pos]:
			kept.Values, kept.Pos = append(kept.Values, out.Values[i]), append(kept.Pos, pos)
		case b.fate[pos] == FateKept: // the first of its rows
			b.Duplicate(pos)
		}
	}
	b.drops = append(b.drops, staging.StageDrops{Stage: copiesStage, Duplicates: b.dups - before})
	return kept
}

func (b *Batch) setKey(pos int32, key string) {
	if b.keys == nil {
		b.keys = make([]string, len(b.Payloads))
	}
	b.keys[pos] = key
}

// account checks that each record of in was either passed on in out or dropped, and never both. It
// costs two passes over the positions, about 2 ns per record.
func (b *Batch) account(in, out []int32) error {
	if b.misuse != nil {
		return b.misuse
	}
	received, passed := b.round+1, b.round+2
	b.round = passed
	for _, p := range in {
		b.mark[p] = received
	}
	last := int32(-1)
	for _, p := range out {
		switch {
		case p < 0 || int(p) >= len(b.mark) || b.mark[p] < received:
			return fmt.Errorf("%w: it passed on position %d, which it did not receive", ErrUnaccounted, p)
		case b.fate[p] != FateKept:
			return fmt.Errorf("%w: it both passed on and dropped the record at position %d", ErrUnaccounted, p)
		case p < last:
			return fmt.Errorf("%w: positions must rise, but %d follows %d", ErrUnaccounted, p, last)
		}
		b.mark[p], last = passed, p
	}
	for _, p := range in {
		if b.mark[p] != passed && b.fate[p] == FateKept {
			return fmt.Errorf("%w: it lost the record at position %d", ErrUnaccounted, p)
		}
	}
	return nil
}

// stagingBatch describes a leased batch to the table. The promoter sets the floor of the ledger by
// the clock of its program. So if the clock of Redis was set back, the time in the id counts: the
// root was sealed right after its program made that id.
func stagingBatch(b *queue.Batch, worker string) staging.Batch {
	sealed := b.Sealed
	if made, err := uid.Time(b.Root); err == nil && made.After(sealed) {
		sealed = made
	}
	return staging.Batch{
		ID: b.ID, Root: b.Root, Offset: b.Offset, Records: len(b.Payloads),
		Attempt: b.Attempt, Worker: worker, Sealed: sealed,
	}
}
