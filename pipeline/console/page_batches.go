package console

import (
	"context"
	"fmt"
	"net/http"
)

// BatchesPage is a page of the ledger, newest first, or the account of one batch.
type BatchesPage struct {
	Common
	Kind    string        `json:"filter_kind,omitempty"`
	Batches []LedgerEntry `json:"batches"`
	// Next is the before of the next page, "" at the end.
	Next string `json:"next,omitempty"`
	// Batch is the one that was asked for by its id, and Rejects the first of its rejects.
	Batch   *LedgerEntry `json:"batch,omitempty"`
	Rejects []Reject     `json:"rejects,omitempty"`
}

// batchSet is a batch of the ledger with its rejects.
type batchSet struct {
	entry   *LedgerEntry
	rejects []rejectRow
}

func buildBatches(ctx context.Context, p *pipe, r *http.Request) (model, error) {
	d := &BatchesPage{Common: newCommon(), Batches: []LedgerEntry{}, Kind: r.FormValue("kind")}
	before, id := r.FormValue("before"), r.FormValue("id")
	for name, text := range map[string]string{"before": before, "id": id} {
		if text != "" && !isUUID(text) {
			return nil, fmt.Errorf("%w: %s is %q, must be the id of a batch, a UUID", ErrArgument, name, text)
		}
	}
	if id != "" {
		one := ask(p, p.postgres, "the batch", id, func(ctx context.Context) (s batchSet, err error) {
			if s.entry, err = p.ledger.readBatch(ctx, id); err != nil || s.entry == nil {
				return s, err
			}
			s.rejects, err = p.ledger.rejectsOf(ctx, id)
			return s, err
		})
		await(ctx, one)
		if s := take(&d.Common, one); s != nil {
			if s.entry == nil {
				return nil, fmt.Errorf("%w: the ledger has no batch %s: it is not committed, or was pruned", ErrNotFound, id)
			}
			d.Batch = s.entry
			for _, x := range s.rejects {
				d.Rejects = append(d.Rejects, *p.h.shown(x))
			}
		}
		return d, nil
	}
	list := ask(p, p.postgres, "the ledger", before+" "+d.Kind, func(ctx context.Context) ([]LedgerEntry, error) { return p.ledger.readBatches(ctx, before, d.Kind) })
	await(ctx, list)
	if page := take(&d.Common, list); page != nil {
		d.Batches = append(d.Batches, *page...)
		if len(*page) == batchPage {
			d.Next = (*page)[batchPage-1].ID
		}
	}
	return d, nil
}

// isUUID reports whether a text is a UUID in its usual form.
func isUUID(text string) bool {
	if len(text) != 36 {
		return false
	}
	for i, c := range []byte(text) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
		if dash != (c == '-') || !dash && !hex {
			return false
		}
	}
	return true
}
