package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// QueueFinder is the part of a queue in which [Find] looks. *[queue.Queue] and
// *[queue.Shards] implement it.
type QueueFinder interface {
	Batches(ctx context.Context, ids ...string) ([]queue.BatchInfo, error)
	InFlight(ctx context.Context, until time.Time, n int) (batches []queue.BatchInfo, total int64, err error)
	Annotation(ctx context.Context, batch, name string) (string, error)
	DeadLetter(ctx context.Context, id string) (queue.DeadLetter, error)
	Scan(ctx context.Context, o queue.ScanOptions, visit func([]queue.ScannedRecord) error) ([]queue.ScanCount, error)
}

// WindowFinder is the part of a dedup window in which [Find] looks. *[dedup.Deduplicator]
// and *[ShardWindow] implement it.
type WindowFinder interface {
	Holders(ctx context.Context, ids ...string) ([]dedup.Holder, error)
}

// TableFinder is the part of a table in which [Find] looks. *[staging.Table] implements it, and
// *[staging.Finder] for a program that does not know the type of the rows.
type TableFinder interface {
	FindKey(ctx context.Context, key string) (staging.FoundKey, error)
	FindBatches(ctx context.Context, ids ...string) (staging.FoundBatches, error)
	FindSealed(ctx context.Context, from, to time.Time, limit int) (staging.SealedBatches, error)
}

// FindSources are the places in which [Find] looks. A nil source is left out, and named in
// [FindResult.Limits].
type FindSources struct {
	Queue  QueueFinder
	Window WindowFinder
	Table  TableFinder
	// Keys returns the id of each payload, "" for one without. Nil: a payload has the id if its text
	// holds it as a word.
	Keys func(ctx context.Context, payloads [][]byte) []string
	// Scan bounds how many records are read where there is no index: in the ready list, among delayed
	// ones, dead letters, and records in flight that no stage has claimed.
	Scan queue.ScanOptions
}

// Find looks for a record in all places of the pipeline. The id is what the chain's [Dedup] stage
// computes, and the text of the table's column Config.ID: an order number, say. The id of a batch
// finds that batch. The package function [Find] documents the cost and what it cannot see.
func (f Flow[T]) Find(ctx context.Context, id string) (FindResult, error) {
	f, err := f.validate()
	if err != nil {
		return FindResult{}, err
	}
	var src FindSources
	src.Queue, _ = f.Queue.(QueueFinder)
	src.Table, _ = any(f.Table).(TableFinder)
	if w, ok := f.Chain.window.(WindowFinder); ok {
		src.Window, src.Keys = w, f.keysOf
	}
	return Find(ctx, src, id)
}

// keysOf runs the chain up to its Dedup stage. If one record makes it fail, the others run one by
// one.
func (f Flow[T]) keysOf(ctx context.Context, payloads [][]byte) []string {
	b := newBatch(&queue.Batch{Queue: f.Queue.Name(), Payloads: payloads})
	b.keysOnly = true
	_, err := f.runChain(ctx, b)
	switch {
	case errors.Is(err, errKeysKnown) && b.keys != nil:
		return b.keys
	case errors.Is(err, errKeysKnown), len(payloads) == 1, ctx.Err() != nil:
		return make([]string, len(payloads))
	}
	var keys []string
	for _, p := range payloads {
		keys = append(keys, f.keysOf(ctx, [][]byte{p})...)
	}
	return keys
}

// Find looks for a record by its id, and for a batch if id is one. A record may be found in several
// places: rejected, replayed and promoted. [Flow.Find] is shorter where there is a Flow.
//
// It looks in the order in which records move, so that one that moves on meanwhile is not missed.
// By index it finds: the place that holds the id in the dedup window, and its batch in the queue,
// the registries or the ledger; the rows and rejects with that key; a dead letter by its batch.
// Ready, delayed and dead records, and copies in batches in flight, have no index by id: Find reads
// some of each ([FindSources.Scan]). [FindResult.Limits] names what it did not look through.
//
// A copy that was dropped as a duplicate leaves no trace but a count. Find reports the record whose
// duplicate it was.
//
// With the default bounds it costs about twenty commands on Redis, up to 32 MiB of payloads, and
// seven statements on Postgres, none of which scans a table.
func Find(ctx context.Context, src FindSources, id string) (FindResult, error) {
	if id == "" {
		return FindResult{}, fmt.Errorf("%w: the id of Find is empty, must be that of a record or of a batch", ErrConfig)
	}
	if redisx.IsNil(src.Queue) {
		src.Queue = nil
	}
	if redisx.IsNil(src.Window) {
		src.Window = nil
	}
	if redisx.IsNil(src.Table) {
		src.Table = nil
	}
	f := finder{src: src, found: FindResult{ID: id, At: time.Now()}}
	for _, step := range []func(context.Context) error{f.scan, f.held, f.batch, f.stored} {
		if err := step(ctx); err != nil {
			return f.found, fmt.Errorf("pipeline: could not find %q: %w", id, err)
		}
	}
	slices.SortStableFunc(f.found.Places, func(a, b FoundPlace) int { return cmp.Compare(a.Location, b.Location) })
	return f.found, nil
}

// finder is one run of Find.
type finder struct {
	src    FindSources
	found  FindResult
	holder dedup.Holder
	root   string // of the holder, once it is known
}

func (f *finder) limit(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(f.found.Limits, text) {
		f.found.Limits = append(f.found.Limits, text)
	}
}

func (f *finder) limits(texts []string) {
	for _, text := range texts {
		f.limit("%s", text)
	}
}

// add adds a place, or completes the one that is known for the same record of the same batch.
func (f *finder) add(p FoundPlace) {
	for i := range f.found.Places {
		old := &f.found.Places[i]
		if p.Batch != "" && old.Batch == p.Batch && old.Position == p.Position && old.inFlight() && p.inFlight() {
			*old = p
			return
		}
	}
	f.found.Places = append(f.found.Places, p)
}

// heldBatches is how many of the batches in flight Find compares with the holder of an id.
const heldBatches = 1000

// A batch claims its ids soon after its seal, or later if it had to wait. Find first compares the
// batches that were sealed within a short time before the claim, and then those within a long one.
// sealedMost bounds their numbers.
var (
	sealedBefore = []time.Duration{10 * time.Minute, 25 * time.Hour}
	sealedMost   = []int{10_000, 100_000}
)

// sealedAfter allows for clocks that differ: an id of a batch carries that of a worker.
const sealedAfter = 10 * time.Minute

// batch finds the batch whose id was given.
func (f *finder) batch(ctx context.Context) error {
	id := f.found.ID
	if !isUUID(id) {
		return nil
	}
	if f.src.Queue != nil {
		batches, err := f.src.Queue.Batches(ctx, id)
		if err != nil {
			return err
		}
		for _, b := range batches {
			f.add(flightPlace(b, WholeBatch))
		}
		if err := f.letter(ctx, id); err != nil {
			return err
		}
	}
	if f.src.Table == nil {
		return nil
	}
	stored, err := f.src.Table.FindBatches(ctx, id)
	if err != nil {
		return err
	}
	f.limits(stored.Limits)
	for _, b := range stored.Batches {
		if !slices.ContainsFunc(f.found.Places, func(p FoundPlace) bool { return p.Batch == b.ID && p.inFlight() }) { // stored completes those
			f.add(storedPlace(b, WholeBatch))
		}
	}
	return nil
}

// isUUID reports whether a text has the form of a batch id.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		digit := '0' <= c && c <= '9' || 'a' <= c && c <= 'f'
		if i == 8 || i == 13 || i == 18 || i == 23 {
			digit = c == '-'
		}
		if !digit {
			return false
		}
	}
	return true
}
