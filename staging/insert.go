package staging

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// which is the condition on rows, with the numbers of the batches in it: numbers are not text to be quoted.
func (p *promotion[T]) which() string {
	if p.every {
		return all
	}
	return "s." + colBatch + " = ANY('" + array(p.numbers()) + "'::int4[])"
}

func (p *promotion[T]) numbers() []int32 {
	nos := make([]int32, 0, len(p.take))
	for no := range p.take {
		nos = append(nos, no)
	}
	slices.Sort(nos)
	return nos
}

// reject applies the rules and brings the records that were refused before staging into the durable table.
func (p *promotion[T]) reject(ctx context.Context) error {
	if len(p.take) == 0 {
		return nil
	}
	if p.out.Rejected > 0 {
		if _, err := one(ctx, p.q, p.t.sql.refuse[p.s], array(p.numbers())); err != nil {
			return err
		}
	}
	if len(p.t.rules) == 0 || p.expect == 0 {
		return nil
	}
	r, err := one(ctx, p.q, where(p.t.sql.rules[p.s], p.which()), strconv.FormatBool(p.multi))
	if err != nil {
		return err
	}
	ruled, err := countsOf(r)
	for no, n := range ruled {
		p.take[no].ruled = n
		p.out.Ruled += int(n)
		p.expect -= n
	}
	return err
}

// insertAll writes all rows with one statement.
func (p *promotion[T]) insertAll(ctx context.Context) error {
	if p.expect == 0 {
		return nil
	}
	n, err := p.exec(ctx, where(p.t.sql.insert[p.s], p.which()))
	if err != nil {
		return err
	}
	p.out.Rows = int(n)
	if n == p.expect {
		return nil
	}
	if len(p.t.cfg.Key) == 0 || n > p.expect { // a trigger that swallows rows, or a rule of the old kind
		return fmt.Errorf("staging: %d rows were to be inserted into %s and %d were: does it have a trigger or rule that drops rows?", p.expect, p.t.target, n)
	}
	if p.t.cfg.Conflict == Fail {
		return p.conflict(ctx)
	}
	r, err := one(ctx, p.q, where(p.t.sql.conflicts[p.s], p.which()))
	if err != nil {
		return err
	}
	counts, err := countsOf(r)
	if err != nil {
		return err
	}
	for no, c := range counts {
		p.take[no].conflicts = c
		p.out.Conflicts += int(c)
	}
	if int64(p.out.Conflicts) != p.expect-n {
		// A writer outside has changed the target between two of our statements. Row by row the count is exact.
		return errRecount
	}
	return nil
}

var errRecount = errors.New("conflicts do not add up")

// conflict names one of the keys that stand twice in this promotion.
func (p *promotion[T]) conflict(ctx context.Context) error {
	return fmt.Errorf("%w: two staged rows have one key (%s)", ErrConflict, list("", p.t.cfg.Key))
}

// exec runs the insert and says how many rows it wrote. With merges that is an answer, without them the tag.
func (p *promotion[T]) exec(ctx context.Context, sql string, args ...string) (int64, error) {
	r, err := one(ctx, p.q, sql, args...)
	if err != nil {
		return 0, err
	}
	if len(p.t.cfg.Merge) > 0 {
		return strconv.ParseInt(string(r.Rows[0][0]), 10, 64)
	}
	return r.CommandTag.RowsAffected(), nil
}

// insertCarefully writes batch by batch, each behind a savepoint, after the one statement for all has met a row that the
// target refuses, or a writer that was faster. What fails is halved until the record stands alone, and is rejected.
func (p *promotion[T]) insertCarefully(ctx context.Context) error {
	if p.expect == 0 {
		return nil
	}
	t, q := p.t, p.q
	if _, err := send(ctx, q, do(where(t.sql.aside[p.s], p.which())), do("CREATE INDEX ON pg_temp.hr_aside ("+colBatch+", "+colPos+")")); err != nil {
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
		p.out.Ruled += int(refused)
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
	wrote, err = p.exec(ctx, p.t.sql.insertBit[p.s], text(no), text(lo), text(hi))
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
		r, err := one(ctx, p.q, p.t.sql.rejectBit[p.s], text(no), text(lo), code, plain(reason))
		if err != nil {
			return 0, 0, err
		}
		return 0, r.CommandTag.RowsAffected(), nil
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
