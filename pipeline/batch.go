package pipeline

import (
	"fmt"
	"sync/atomic"

	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Batch is a leased batch on its way through a chain. Beside what the queue says of it, it keeps what became of each record.
// It belongs to the worker that runs it: stages use it from one goroutine at a time, and not after they have returned.
type Batch struct {
	*queue.Batch

	fate     []fate   // by position
	keys     []string // by position: ids for the dedup window; nil in a chain without Dedup
	mark     []uint32 // by position: the round in which account saw it
	round    uint32
	rejects  []staging.Reject
	dups     int
	filtered int
	keysOnly bool        // run only to learn the ids: nothing is claimed
	staging  atomic.Bool // the chain has run; what is left is Postgres' matter
	misuse   error       // a stage named a position that it was not given, or one twice
}

type fate uint8

const (
	live fate = iota
	duplicate
	filtered
	rejected
)

func newBatch(qb *queue.Batch) *Batch {
	n := len(qb.Payloads)
	return &Batch{Batch: qb, fate: make([]fate, n), mark: make([]uint32, n)}
}

// Duplicate says that the record at pos is the duplicate of one that is accounted for.
func (b *Batch) Duplicate(pos int32) {
	if b.drop(pos, duplicate) {
		b.dups++
	}
}

// Filter says that the record at pos is not wanted: it ends here, counted as filtered.
func (b *Batch) Filter(pos int32) {
	if b.drop(pos, filtered) {
		b.filtered++
	}
}

// Reject says that the record at pos is bad. It ends in the durable table of rejects with its payload, the reason for people
// and the code for programs, a stable lower-case word such as "unknown_product".
func (b *Batch) Reject(pos int32, code, reason string) {
	if !b.drop(pos, rejected) {
		return
	}
	r := staging.Reject{Pos: pos, Code: code, Reason: reason, Payload: b.Payloads[pos]}
	if b.keys != nil {
		r.Key = b.keys[pos]
	}
	b.rejects = append(b.rejects, r)
}

// refuse rejects a record for an error of a function in a stage, unless the error concerns the batch: then it returns it.
func (b *Batch) refuse(pos int32, code string, err error) error {
	if concernsBatch(err) {
		return err
	}
	var coded interface{ RejectCode() string }
	if asCoded(err, &coded) {
		code = coded.RejectCode()
	}
	b.Reject(pos, code, err.Error())
	return nil
}

func (b *Batch) drop(pos int32, f fate) bool {
	if pos < 0 || int(pos) >= len(b.fate) {
		b.misuse = fmt.Errorf("%w: position %d of a batch of %d", ErrUnaccounted, pos, len(b.fate))
		return false
	}
	if b.fate[pos] != live {
		b.misuse = fmt.Errorf("%w: the record at position %d is dropped twice", ErrUnaccounted, pos)
		return false
	}
	b.fate[pos] = f
	return true
}

func (b *Batch) setKey(pos int32, key string) {
	if b.keys == nil {
		b.keys = make([]string, len(b.Payloads))
	}
	b.keys[pos] = key
}

// account checks that each record of in is either passed on in out or was dropped, and never both. It costs two passes over
// the positions, about 2 ns a record.
func (b *Batch) account(in, out []int32) error {
	if b.misuse != nil {
		return b.misuse
	}
	given, passed := b.round+1, b.round+2
	b.round = passed
	for _, p := range in {
		b.mark[p] = given
	}
	last := int32(-1)
	for _, p := range out {
		switch {
		case p < 0 || int(p) >= len(b.mark) || b.mark[p] < given:
			return fmt.Errorf("%w: it passed on position %d, which it was not given", ErrUnaccounted, p)
		case b.fate[p] != live:
			return fmt.Errorf("%w: it both passed on and dropped the record at position %d", ErrUnaccounted, p)
		case p < last:
			return fmt.Errorf("%w: positions must rise, but %d follows %d", ErrUnaccounted, p, last)
		}
		b.mark[p], last = passed, p
	}
	for _, p := range in {
		if b.mark[p] != passed && b.fate[p] == live {
			return fmt.Errorf("%w: the record at position %d is gone", ErrUnaccounted, p)
		}
	}
	return nil
}
