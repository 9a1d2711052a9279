package staging

import (
	"context"
	"slices"
)

// recordKey is a record of a promotion.
type recordKey struct {
	batch string
	pos   int32
}

// cause is why a record is rejected: the first reject of one of its rows.
type cause struct {
	share                int
	source, code, reason string
}

// write brings the rows of all tables into their targets, and whole records only.
//
// What can be found before a row is written is found first: rules, and rows that the constraints
// refuse. Then the tables are written, parents before children. If a target refuses a row only then
// (because of a trigger, say), other tables may have rows of its record already: everything written
// is rolled back, the record is rejected in all tables, and the others are written again. The set
// of rejected records only grows, so this ends.
func (p *groupPromotion[R]) write(ctx context.Context) error {
	for _, i := range p.order {
		if err := p.shares[i].applyRules(ctx); err != nil {
			return err
		}
	}
	if err := p.sift(ctx); err != nil {
		return err
	}
	for {
		before := p.snapshot()
		if _, err := sendOne(ctx, p.q, do("savepoint hr_group")); err != nil {
			return err
		}
		for _, i := range p.order {
			if err := p.shares[i].insert(ctx); err != nil {
				return err
			}
		}
		for _, x := range p.shares {
			if err := x.everyRowRefused(ctx); err != nil {
				return err
			}
		}
		torn, err := p.torn(ctx)
		if err != nil {
			return err
		}
		if len(torn) == 0 {
			return p.finishMerges(ctx)
		}
		if _, err := send(ctx, p.q, do("rollback to savepoint hr_group"), do("release savepoint hr_group")); err != nil {
			return err
		}
		for i, x := range p.shares {
			*x.state() = before[i]
		}
		if err := p.g.at("rolled back"); err != nil {
			return err
		}
		if _, err := p.reject(ctx, torn); err != nil {
			return err
		}
		if err := p.sift(ctx); err != nil {
			return err
		}
	}
}

// finishMerges keeps what was written, and runs the statements that the merges need after it.
func (p *groupPromotion[R]) finishMerges(ctx context.Context) error {
	if _, err := sendOne(ctx, p.q, do("release savepoint hr_group")); err != nil {
		return err
	}
	for _, i := range p.order {
		if err := p.shares[i].finishMerges(ctx); err != nil {
			return err
		}
	}
	return nil
}

// sift rejects what the constraints of the targets refuse, before anything is written, and the rest
// of these records. A row whose parent has gone with them is found in the next round.
func (p *groupPromotion[R]) sift(ctx context.Context) error {
	for {
		found, err := p.rejected(ctx)
		if err != nil {
			return err
		}
		if _, err := p.reject(ctx, found); err != nil {
			return err
		}
		for _, i := range p.order {
			if err := p.siftOne(ctx, p.shares[i]); err != nil {
				return err
			}
		}
		if found, err = p.rejected(ctx); err != nil {
			return err
		}
		n, err := p.reject(ctx, found)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

// siftOne rejects suspect rows of one table. The parents that come with this promotion are not in
// the target yet: a row that lacks its parent is postponed, unless the parent is not staged either.
func (p *groupPromotion[R]) siftOne(ctx context.Context, x share) error {
	st := x.state()
	suspects, comes := st.suspects, st.parentsCome
	defer func() { st.suspects, st.parentsCome = suspects, comes }()
	if len(st.orphans) > 0 {
		st.suspects = st.orphans
		// A trigger of another table may make the parent.
		st.parentsCome = comes || slices.ContainsFunc(p.shares, func(o share) bool { return o.state().triggers })
		if err := x.rejectSuspects(ctx); err != nil {
			return err
		}
	}
	st.suspects, st.parentsCome = suspects, comes || len(st.orphans) > 0
	return x.rejectSuspects(ctx)
}

// rejected returns the records of which a row was rejected, without those that are known.
func (p *groupPromotion[R]) rejected(ctx context.Context) (map[recordKey]cause, error) {
	out := map[recordKey]cause{}
	for _, i := range p.order {
		x := p.shares[i]
		if x.state().refused == x.state().dropped {
			continue
		}
		r, err := sendOne(ctx, p.q, p.g.views[i].sql.rejectedRecords.with(args{"batches": array(p.batches)}))
		if err != nil {
			return nil, err
		}
		for row := range r.each() {
			k := recordKey{row.text("batch"), int32(row.int("pos"))}
			_, known := p.gone[k]
			_, twice := out[k]
			if !known && !twice {
				out[k] = cause{i, row.text("source"), row.text("code"), row.text("reason")}
			}
		}
	}
	return out, nil
}

// torn returns the records of which a row was rejected and another one kept. A clash on a unique
// index or an exclusion may be with a record that goes, so such records go only when there are no
// others.
func (p *groupPromotion[R]) torn(ctx context.Context) (map[recordKey]cause, error) {
	found, err := p.rejected(ctx)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	list := sorted(found)
	torn, clashing := map[recordKey]cause{}, map[recordKey]cause{}
	for i, x := range p.shares {
		for part := range slices.Chunk(list, recordsAtOnce) {
			var numbers, positions []int32
			for _, k := range part {
				numbers, positions = append(numbers, p.numbers[i][k.batch]), append(positions, k.pos)
			}
			r, err := sendOne(ctx, p.q, x.sql().leftOfRecords.with(args{"numbers": array(numbers), "positions": array(positions)}))
			if err != nil {
				return nil, err
			}
			for row := range r.each() {
				k := part[row.int("i")-1]
				if c := found[k]; c.code == codeSQL+"23505" || c.code == codeSQL+"23P01" {
					clashing[k] = c
				} else {
					torn[k] = c
				}
			}
		}
	}
	if len(torn) == 0 {
		return clashing, nil
	}
	return torn, nil
}

// recordsAtOnce bounds the parameters of a statement.
const recordsAtOnce = 20_000

// reject rejects what is left of records in every table, and returns how many rows that were.
func (p *groupPromotion[R]) reject(ctx context.Context, records map[recordKey]cause) (rows int64, err error) {
	if len(records) == 0 {
		return 0, nil
	}
	for k, c := range records {
		p.gone[k] = c
	}
	list := sorted(records)
	for i, x := range p.shares {
		st := x.state()
		if st.expect == 0 {
			continue
		}
		for part := range slices.Chunk(list, recordsAtOnce) {
			var numbers, positions []int32
			var sources, codes, reasons []string
			for _, k := range part {
				c := records[k]
				if c.share != i {
					c.source = "group"
				}
				numbers, positions = append(numbers, p.numbers[i][k.batch]), append(positions, k.pos)
				sources, codes, reasons = append(sources, c.source), append(codes, c.code), append(reasons, c.reason)
			}
			r, err := sendOne(ctx, p.q, x.sql().rejectRecords.with(args{"numbers": array(numbers), "positions": array(positions),
				"sources": namesText(sources), "codes": namesText(codes), "reasons": namesText(reasons)}))
			if err != nil {
				return rows, err
			}
			n := r.row(0).int("n")
			st.refused, st.dropped, rows = st.refused+n, st.dropped+n, rows+n
		}
	}
	return rows, nil
}

// sorted lists records in one order.
func sorted(records map[recordKey]cause) []recordKey {
	out := make([]recordKey, 0, len(records))
	for k := range records {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b recordKey) int {
		if a.batch != b.batch {
			if a.batch < b.batch {
				return -1
			}
			return 1
		}
		return int(a.pos) - int(b.pos)
	})
	return out
}
