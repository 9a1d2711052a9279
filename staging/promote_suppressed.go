package staging

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A trigger that runs before the insert of a row may return NULL. Postgres then drops the row
// without an error, and counts it nowhere. An insert that has written fewer rows than it should is
// rolled back where some key is not in the target afterwards. Then each row is tried alone, and one
// that was dropped is rejected: it is neither in the target nor there already.

const suppressedReason = "a trigger of the table dropped the row: it returned NULL"

// suppressed is true if rows that a trigger drops are looked for.
func (p *promotion) suppressed(w *work) bool { return w.source == "insert" && p.suppress }

// absent is true for a staged row that is not in the target. Without a key nothing is known.
func (t *table) absent() string {
	if len(t.cfg.Key) == 0 {
		return "true"
	}
	there := t.keyEquals("hr_there.", "s.")
	if !t.mayKeepOld() {
		there += " AND ((" + fill("ours", nil).text + ") OR " + t.same("s.") + ")"
	}
	return "NOT EXISTS (SELECT FROM " + t.target + " hr_there WHERE " + there + " OFFSET 0)"
}

// same is true if the target's row (hr_there) has the values of a staged one: then a trigger that
// leaves redundant updates out loses nothing. Some types have no equality, but all have a text.
func (t *table) same(row string) string {
	return "ROW(" + list("hr_there.", t.colNames) + ")::text = ROW(" + list(row, t.colNames) + ")::text"
}

// mayKeepOld is true if the conflict policy may leave a row out whose key is in the target.
func (t *table) mayKeepOld() bool {
	return t.cfg.Conflict != ConflictReplace || t.cfg.ReplaceIf != "" || t.cfg.Newer != "" || len(t.cfg.Key) == len(t.colNames)
}

// insertWatched inserts the rows into a target with triggers that run before the insert of a row.
// It returns false if they have dropped rows. Then nothing was done.
func (p *promotion) insertWatched(ctx context.Context) (bool, error) {
	before := p.progress
	before.wroteBy = maps.Clone(p.wroteBy)
	_, err := p.try(ctx, func() (int64, error) {
		if err := p.insertRows(ctx); err != nil {
			return 0, err
		}
		if p.written >= p.expect-p.refused {
			return 0, nil
		}
		dropped, err := p.mayHaveDropped(ctx)
		if err == nil && dropped {
			err = errRollBack
		}
		return 0, err
	})
	if errors.Is(err, errRollBack) {
		p.progress = before
		return false, nil
	}
	return true, err
}

// anyAbsent is true if some of the rows of a condition are not in the target.
func (p *promotion) anyAbsent(ctx context.Context, condition string) (bool, error) {
	r, err := sendOne(ctx, p.q, p.sql().anyAbsent.where(condition).with(nil))
	if err != nil {
		return false, err
	}
	return r.row(0).bool("absent"), nil
}

// insertSuppressed inserts the rows one by one, and rejects those that a trigger drops.
func (p *promotion) insertSuppressed(ctx context.Context, w *work) error {
	p.suppress = true
	if err := p.t.at("suppressed"); err != nil {
		return err
	}
	batches, err := p.spans(ctx)
	if err != nil {
		return err
	}
	if len(batches) == 0 { // every row lacks its parent
		return p.insertLater(ctx, w)
	}
	pieces := [][]recordSpan{batches}
	if p.byBatch {
		pieces = nil
		for _, b := range batches {
			pieces = append(pieces, []recordSpan{b})
		}
	}
	for _, spans := range pieces {
		if p.judges() {
			judged, err := p.judgeRows(ctx, w, hull(spans).condition(), spans)
			if err != nil {
				return err
			}
			if judged {
				continue
			}
		}
		for _, s := range spans {
			if err := p.insertEach(ctx, w, s); err != nil {
				return err
			}
		}
	}
	return p.insertLater(ctx, w)
}

// insertEach inserts the rows of one batch one by one, where the judge statement cannot run.
func (p *promotion) insertEach(ctx context.Context, w *work, batch recordSpan) error {
	if err := p.t.at("row by row"); err != nil {
		return err
	}
	r, err := sendOne(ctx, p.q, p.sql().rowsOf.where(p.of(batch)).with(nil))
	if err != nil {
		return err
	}
	for i := 0; i < len(r.Rows); {
		one := batch.one(r.row(i).int("record"))
		var places []string
		for ; i < len(r.Rows) && r.row(i).int("record") == one.first; i++ {
			places = append(places, r.row(i).text("place"))
		}
		if err := p.insertRecord(ctx, w, one, places); err != nil {
			return err
		}
	}
	return nil
}

// insertRecord inserts the rows of one record one by one.
func (p *promotion) insertRecord(ctx context.Context, w *work, one recordSpan, places []string) error {
	at := func(places []string) string { return p.of(one) + " AND s.ctid = ANY('" + tids(places) + "'::tid[])" }
	var dropped []string
	clashes := false
	p.each = true
	defer func() { p.each = false }()
	written, err := p.limited(ctx, p.times.record, func() (written int64, err error) {
		for i, place := range places {
			n, fate, err := p.insertRow(ctx, w, at(places[i:i+1]))
			if err != nil {
				return 0, err
			}
			switch fate {
			case rowClashed:
				clashes = true
			case rowDropped:
				dropped = append(dropped, place)
			}
			if clashes && p.refusesLate() {
				return 0, errLate
			}
			written += n
		}
		return written, nil
	})
	if p.tooSlow(ctx, err) {
		return p.slowRecord(ctx, w, one, err)
	}
	if err != nil {
		if err := p.mayBeData(ctx, w, err); err != nil {
			return err
		}
		if err := w.blame(ctx, p.of(one), err); err != nil {
			return err
		}
		return p.rejectOne(ctx, w, one, err)
	}
	w.done([]recordSpan{one}, written)
	if clashes {
		p.clashes(one.first)
	}
	if len(dropped) == 0 {
		return nil
	}
	n, err := p.rejectRows(ctx, at(dropped), rejection{one.first, len(dropped) == len(places), w.source, CodeSuppressed, suppressedReason})
	p.refused += n
	return err
}

// rowFate is what became of a row.
type rowFate uint8

const (
	rowWritten rowFate = iota
	rowClashed         // the target has its key
	rowDropped         // by a trigger
)

// insertRow inserts one row, and finds out what became of it, as the judge statement does.
func (p *promotion) insertRow(ctx context.Context, w *work, condition string) (int64, rowFate, error) {
	before, err := sendOne(ctx, p.q, p.sql().rowPlace.where(condition).with(nil))
	if err != nil {
		return 0, 0, err
	}
	there := before.row(0).text("place")
	n, err := w.run(ctx, condition)
	if err != nil || n > 0 {
		return n, rowWritten, err
	}
	after, err := sendOne(ctx, p.q, p.sql().rowPlace.where(condition).with(nil))
	if err != nil {
		return 0, 0, err
	}
	place, kept := after.row(0).text("place"), after.row(0).bool("kept")
	switch {
	case place != "" && place != there:
		return 1, rowWritten, nil // a trigger has written the row
	case there != "" && kept:
		return 0, rowClashed, nil
	case len(p.t.cfg.Key) == 0 || !p.t.mayKeepOld():
		return 0, rowDropped, nil
	}
	// Its key may have changed, or be hidden from this role. Without ON CONFLICT a row that meets the
	// index is an error, and one that is dropped is none.
	_, err = p.try(ctx, func() (int64, error) {
		if _, err := p.execPlain(ctx, p.sql().probe.where(condition).with(nil)); err != nil {
			return 0, err
		}
		return 0, errRollBack
	})
	switch code := sqlState(err); {
	case code == "23505" || code == "23P01":
		return 0, rowClashed, nil
	case errors.Is(err, errRollBack):
		return 0, rowDropped, nil
	}
	return 0, 0, err
}

// tids prints places of rows as an array.
func tids(places []string) string {
	quoted := make([]string, len(places))
	for i, p := range places {
		quoted[i] = `"` + p + `"`
	}
	return "{" + strings.Join(quoted, ",") + "}"
}

// noneDropped returns an error if some rows are not in the target although an insert took them.
// Without a key only the number of rows that the insert has written is known.
func (t *Table[T]) noneDropped(ctx context.Context, q *pgx.Conn, e *encoder[T], rows, wrote int) error {
	if len(t.cfg.Key) == 0 {
		return fmt.Errorf("%w: %s has taken %d rows of %d corrected ones: does a trigger return NULL?", ErrLoad, t.target, wrote, rows)
	}
	a, err := t.readRowArray(ctx, q)
	if err != nil {
		return err
	}
	return a.each(e, func(parameter []byte) error {
		r, err := sendOne(ctx, q, binaryCall(t.sql.arrayAbsent, parameter))
		if err != nil {
			return err
		}
		if n := r.row(0).int("n"); n > 0 {
			return fmt.Errorf("%w: %s has not taken %d corrected rows: does a trigger return NULL?", ErrLoad, t.target, n)
		}
		return nil
	})
}
