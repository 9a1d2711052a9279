package pipeline

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// QueueFinder is the part of a queue in which [Find] looks. *[queue.Queue] implements it.
type QueueFinder interface {
	Batches(ctx context.Context, ids ...string) ([]queue.BatchInfo, error)
	InFlight(ctx context.Context, until time.Time, n int) (batches []queue.BatchInfo, total int64, err error)
	Annotation(ctx context.Context, batch, name string) (string, error)
	DeadLetter(ctx context.Context, id string) (queue.DeadLetter, error)
	Scan(ctx context.Context, o queue.ScanOptions, visit func([]queue.ScannedRecord) error) ([]queue.ScanCount, error)
}

// WindowFinder is the part of a dedup window in which [Find] looks. *[dedup.Deduplicator]
// implements it.
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

// FindSources are the places in which [Find] looks. What is nil is left out, and named in
// Found.Limits.
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
func (f Flow[T]) Find(ctx context.Context, id string) (Found, error) {
	f, err := f.validate()
	if err != nil {
		return Found{}, err
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
// It follows the way of the records, so that one that moves on meanwhile is not missed. By index it
// finds: the place that holds the id in the dedup window, and its batch in the queue, the
// registries or the ledger; the rows and rejects with that key; a dead letter by its batch. Ready,
// delayed and dead records, and copies in batches in flight, have no index by id: Find reads some
// of each (FindSources.Scan). Found.Limits names what it did not look through.
//
// A copy that was dropped as a duplicate leaves no trace but a count. Find reports the record whose
// duplicate it was.
//
// With the default bounds it costs about twenty commands on Redis, up to 32 MiB of payloads, and
// seven statements on Postgres, none of which scans a table.
func Find(ctx context.Context, src FindSources, id string) (Found, error) {
	if id == "" {
		return Found{}, fmt.Errorf("%w: the id of Find is empty, must be that of a record or of a batch", ErrConfig)
	}
	f := finder{src: src, found: Found{ID: id, At: time.Now()}}
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
	found  Found
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

// scan looks through what has no index.
func (f *finder) scan(ctx context.Context) error {
	if f.src.Queue == nil {
		f.limit("the queue: it cannot be looked through")
		return nil
	}
	if f.src.Keys == nil {
		f.limit("payloads: compared by their text, not by the id that the chain computes")
	}
	counts, err := f.src.Queue.Scan(ctx, f.src.Scan, func(part []queue.ScannedRecord) error {
		payloads := make([][]byte, len(part))
		for i := range part {
			payloads[i] = part[i].Payload
		}
		for i, match := range f.matches(ctx, payloads) {
			if match {
				if err := f.scanned(ctx, part[i]); err != nil {
					return err
				}
			}
		}
		return ctx.Err()
	})
	for _, c := range counts {
		if !c.Complete() {
			if c.Moved {
				f.limit("%v: consumers took records during the search, so others may have been missed", c.Place)
			}
			if c.Scanned < c.Total {
				f.limit("%v: %d of %d records were read, oldest first", c.Place, c.Scanned, c.Total)
			}
		}
	}
	return err
}

// matches reports which payloads are of the record.
func (f *finder) matches(ctx context.Context, payloads [][]byte) []bool {
	out := make([]bool, len(payloads))
	if f.src.Keys != nil {
		for i, key := range f.src.Keys(ctx, payloads) {
			out[i] = key == f.found.ID
		}
		return out
	}
	for i, p := range payloads {
		out[i] = hasWord(p, []byte(f.found.ID))
	}
	return out
}

// hasWord reports whether text holds word between characters that are neither letters nor digits.
func hasWord(text, word []byte) bool {
	for at := 0; ; {
		i := bytes.Index(text[at:], word)
		if i < 0 {
			return false
		}
		from, to := at+i, at+i+len(word)
		if (from == 0 || !wordByte(text[from-1])) && (to == len(text) || !wordByte(text[to])) {
			return true
		}
		at = from + 1
	}
}

func wordByte(c byte) bool {
	return c == '_' || c >= 0x80 || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// scanned adds a record that the scan has met.
func (f *finder) scanned(ctx context.Context, r queue.ScannedRecord) error {
	switch r.Place {
	case queue.PlaceReady:
		f.add(FoundPlace{Location: LocationReady, Position: r.Position})
	case queue.PlaceDelayed:
		f.add(FoundPlace{Location: LocationDelayed, Position: r.Position, At: r.Due})
	case queue.PlaceDead:
		f.add(deadPlace(*r.Dead))
	case queue.PlaceInFlight:
		p := flightPlace(*r.Batch, r.Position)
		verdicts, err := f.src.Queue.Annotation(ctx, r.Batch.ID, "dedup")
		if err != nil {
			return err
		}
		if r.Position < len(verdicts) && verdicts[r.Position] == 'd' {
			p.Duplicate = true
		}
		f.add(p)
	}
	return nil
}

// held finds the batch of the record that holds the id in the dedup window.
func (f *finder) held(ctx context.Context) error {
	switch {
	case f.src.Window == nil:
		f.limit("batches by id: there is no dedup window that knows them")
		return nil
	case len(f.found.ID) > dedup.MaxID:
		return nil
	}
	holders, err := f.src.Window.Holders(ctx, f.found.ID)
	if err != nil {
		return err
	}
	if f.holder = holders[0]; !f.holder.Held {
		return nil
	}
	if f.src.Queue != nil {
		found, err := f.heldInFlight(ctx)
		if found || err != nil {
			return err
		}
	}
	if f.src.Table != nil {
		found, err := f.heldInLedger(ctx)
		if found || err != nil {
			return err
		}
	}
	f.limit("the batch that holds the id since %s (its record %d): not among those in flight and in the ledger that were read",
		stamp(f.holder.Claimed), f.holder.Place)
	return nil
}

// heldBatches is how many of the batches in flight Find compares with the holder of an id.
const heldBatches = 1000

// heldInFlight looks for the holder among the batches in flight. They are in the order of the time
// of their seal, and the holder was sealed before it claimed.
func (f *finder) heldInFlight(ctx context.Context) (bool, error) {
	batches, _, err := f.src.Queue.InFlight(ctx, f.holder.Claimed.Add(time.Second), heldBatches)
	if err != nil {
		return false, err
	}
	for _, b := range batches {
		if f.holder.HeldBy(b.Root) && b.Holds(b.Root, f.holder.Place) {
			f.root = b.Root
			f.add(flightPlace(b, f.holder.Place-b.Offset))
			return true, nil
		}
	}
	return false, nil
}

// A batch claims its ids soon after its seal, or later when it had to wait. Find compares the
// batches of both spans, up to so many.
var (
	sealedBefore = []time.Duration{10 * time.Minute, 25 * time.Hour}
	sealedMost   = []int{10_000, 100_000}
)

// sealedAfter allows for clocks that differ: an id of a batch carries that of a worker.
const sealedAfter = 10 * time.Minute

// heldInLedger looks for the holder in the ledger, and for the part that has it if it was split.
func (f *finder) heldInLedger(ctx context.Context) (bool, error) {
	for i, before := range sealedBefore {
		sealed, err := f.src.Table.FindSealed(ctx, f.holder.Claimed.Add(-before), f.holder.Claimed.Add(sealedAfter), sealedMost[i])
		if err != nil {
			return false, err
		}
		for _, id := range sealed.IDs {
			if f.holder.HeldBy(id) {
				f.root = id
				return f.ledgerPlaces(ctx, id)
			}
		}
		if last := i == len(sealedBefore)-1; last && sealed.More {
			f.limit("the ledger: the last %d batches sealed before the claim were read", len(sealed.IDs))
		} else if last && f.holder.Claimed.Before(sealed.Floor) {
			f.limit("the ledger: pruned before %s", stamp(sealed.Floor))
		}
	}
	return false, nil
}

// ledgerPlaces adds the batches of a root that hold, or held, the record.
func (f *finder) ledgerPlaces(ctx context.Context, root string) (bool, error) {
	batches, err := f.src.Table.FindBatches(ctx, root)
	if err != nil {
		return false, err
	}
	f.limits(batches.Limits)
	found := false
	for _, b := range batches.Batches {
		if !b.Holds(root, f.holder.Place) {
			continue
		}
		found = true
		if b.Fate == staging.FateVoid {
			if err := f.letter(ctx, b.ID); err != nil {
				return false, err
			}
			continue // its parts follow
		}
		f.add(storedPlace(b, f.holder.Place-b.Offset))
	}
	return found, nil
}

// letter adds the dead letter of a batch, if there is one.
func (f *finder) letter(ctx context.Context, batch string) error {
	if f.src.Queue == nil {
		return nil
	}
	d, err := f.src.Queue.DeadLetter(ctx, batch)
	if errors.Is(err, queue.ErrGone) {
		return nil
	}
	if err == nil && !slices.ContainsFunc(f.found.Places, func(p FoundPlace) bool { return p.Location == LocationDead && p.Batch == batch }) {
		f.add(deadPlace(d))
	}
	return err
}

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

// stored finds the rows and the rejects of the record, and what Postgres knows of the batches that
// are in flight in Redis.
func (f *finder) stored(ctx context.Context) error {
	if f.src.Table == nil {
		f.limit("the table: it cannot be looked through")
		return nil
	}
	var flights []string
	for _, p := range f.found.Places {
		if p.inFlight() {
			flights = append(flights, p.Batch)
		}
	}
	batches, err := f.src.Table.FindBatches(ctx, flights...)
	if err != nil {
		return err
	}
	f.limits(batches.Limits)
	for _, b := range batches.Batches {
		for i, p := range f.found.Places {
			if p.Batch == b.ID && p.inFlight() && b.Fate != staging.FateVoid {
				f.found.Places[i] = storedPlace(b, p.Position)
				f.found.Places[i].Duplicate, f.found.Places[i].Unacked = p.Duplicate, true
			}
		}
	}
	key, err := f.src.Table.FindKey(ctx, f.found.ID)
	if err != nil {
		return err
	}
	f.limits(key.Limits)
	f.rejects(key)
	f.rows(key)
	return nil
}

// rejects adds the rejects. One of a batch that is known takes the place of the record there.
func (f *finder) rejects(key staging.FoundKey) {
	for _, r := range key.Rejects {
		p := FoundPlace{
			Location: LocationRejected, Batch: r.Batch, Position: int(r.Pos), At: r.At, Code: r.Code, Reason: r.Reason, Source: r.Source, Resolved: r.Resolved,
		}
		if i := slices.IndexFunc(f.found.Places, func(old FoundPlace) bool {
			return old.Location == LocationPromoted && old.Batch == r.Batch && old.Position == p.Position
		}); i >= 0 {
			p.Worker, p.Attempt, p.Unacked = f.found.Places[i].Worker, f.found.Places[i].Attempt, f.found.Places[i].Unacked
			f.found.Places[i] = p
			continue
		}
		f.add(p)
	}
	if key.MoreRejects {
		f.limit("rejects: only the last %d are listed", len(key.Rejects))
	}
}

// rows adds the rows. The batch that holds the id is that of the first one.
func (f *finder) rows(key staging.FoundKey) {
	rows := key.Rows
	for i := range f.found.Places {
		p := &f.found.Places[i]
		if len(rows) > 0 && p.Location == LocationPromoted && p.Position >= 0 && !p.Duplicate {
			p.Row, rows = rows[0].JSON, rows[1:]
		}
	}
	for _, r := range rows {
		f.add(FoundPlace{Location: LocationPromoted, Position: WholeBatch, Row: r.JSON})
	}
	if key.MoreRows {
		f.limit("rows: only %d are listed", len(key.Rows))
	}
}
