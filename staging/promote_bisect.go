package staging

import (
	"context"
	"fmt"
)

// insertCarefully writes batch by batch, each behind a savepoint, after the one statement for all has met a row that the
// target refuses, or a writer that was faster. What fails is halved until the record stands alone, and is rejected.
func (p *promotion[T]) insertCarefully(ctx context.Context) error {
	if p.expect == 0 {
		return nil
	}
	t, q := p.t, p.q
	if err := t.at("carefully"); err != nil {
		return err
	}
	if _, err := send(ctx, q, t.sql.side[p.s].aside.where(p.which()).with(nil), do("CREATE INDEX ON pg_temp.hr_aside ("+colRecord+")")); err != nil {
		return err
	}
	for _, no := range p.numbers() {
		x := p.take[no]
		want := x.rows - x.ruled
		if want == 0 {
			continue
		}
		wrote, refused, err := p.insertSpan(ctx, no, 0, int32(x.records)-1)
		if err != nil {
			return err
		}
		x.ruled += refused
		x.conflicts = want - wrote - refused
		p.out.Rows += int(wrote)
		p.out.RejectedByRule += int(refused)
		p.out.Conflicts += int(x.conflicts)
		if x.conflicts > 0 && len(t.cfg.Key) == 0 {
			return fmt.Errorf("staging: %s took %d rows of %d: does it have a trigger or rule that drops rows?", t.target, wrote, want)
		}
	}
	return nil
}

// insertSpan writes the rows of positions lo to hi of one batch.
func (p *promotion[T]) insertSpan(ctx context.Context, no, lo, hi int32) (wrote, refused int64, err error) {
	if _, err := p.q.Exec(ctx, "savepoint hr_insert"); err != nil {
		return 0, 0, err
	}
	wrote, err = p.exec(ctx, p.t.sql.side[p.s].bitInsert.with(args{"first": text(recordOf(no, lo)), "last": text(recordOf(no, hi))}))
	if err == nil {
		_, err = p.q.Exec(ctx, "release savepoint hr_insert")
		return wrote, 0, err
	}
	if !isData(err) {
		return 0, 0, err
	}
	cause := err
	if _, err := p.q.Exec(ctx, "rollback to savepoint hr_insert; release savepoint hr_insert"); err != nil {
		return 0, 0, err
	}
	if lo == hi {
		code, reason := refusal(cause)
		// Nothing of this record is left: its other rows, if any, are among these or were rejected by a rule.
		r, err := sendOne(ctx, p.q, p.t.sql.side[p.s].bitReject.with(args{"record": text(recordOf(no, lo)), "code": code, "reason": plain(reason)}))
		if err != nil {
			return 0, 0, err
		}
		return 0, r.affected(), nil
	}
	mid := lo + (hi-lo)/2
	for _, half := range [2][2]int32{{lo, mid}, {mid + 1, hi}} {
		w, r, err := p.insertSpan(ctx, no, half[0], half[1])
		if err != nil {
			return 0, 0, err
		}
		wrote, refused = wrote+w, refused+r
	}
	return wrote, refused, nil
}
