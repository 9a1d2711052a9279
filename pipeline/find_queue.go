package pipeline

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/queue"
)

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
