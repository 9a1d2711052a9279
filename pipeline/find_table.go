package pipeline

import (
	"context"
	"slices"

	"github.com/headrace/headrace/staging"
)

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
