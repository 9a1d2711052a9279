package staging

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

// lock takes the sealed side of every table, in one order for all programs, and reads what is in
// it.
func (p *groupPromotion[R]) lock(ctx context.Context) error {
	g := p.g
	var locks []call
	for _, i := range g.byName {
		locks = append(locks, g.views[i].sql.side[p.s].lock.with(nil))
	}
	for _, i := range g.byName {
		locks = append(locks, g.views[i].sql.lockTarget.with(nil))
	}
	read := []call{g.parentsCall()}
	for _, x := range p.shares {
		read = append(read, x.readCalls()...)
	}
	res, err := g.lead().inSlices(ctx, p.q, locks, read, func() error { return g.at("between slices") })
	if err != nil {
		return err
	}
	if p.order, err = g.parentsFirst(res[0]); err != nil {
		return err
	}
	res = res[1:]
	each := len(res) / len(p.shares)
	p.found = 0
	for i, x := range p.shares {
		if err := x.read(res[i*each : (i+1)*each]); err != nil {
			return err
		}
		p.found += x.state().found
	}
	p.expectParents()
	return nil
}

// expectParents completes the conditions of suspect rows: a row's parent may be staged with it.
func (p *groupPromotion[R]) expectParents() {
	for _, x := range p.shares {
		st := x.state()
		st.suspects, st.orphans = nil, nil
		for _, y := range st.suspicions {
			i := slices.IndexFunc(p.shares, func(o share) bool { return o.state().target == y.parent })
			switch {
			case y.parent == 0:
				st.suspects = append(st.suspects, x.inTurn(y))
			case i < 0:
				st.orphans = append(st.orphans, x.inTurn(y))
			case !slices.ContainsFunc(y.columns, func(c string) bool { return !slices.Contains(p.g.views[i].columns, c) }):
				st.orphans = append(st.orphans, x.inTurn(y)+" AND NOT EXISTS (SELECT FROM "+p.g.views[i].names.staging[p.s]+" hr_parent WHERE "+y.equal+")")
			}
		}
	}
}

// pick decides which batches this transaction settles, and returns those that are whole: intact in
// every table, and staged by a group of the same tables. A batch of which a table has lost its part
// is set aside in all.
func (p *groupPromotion[R]) pick(limit int64) (whole []string) {
	parts := map[string][]*staged{}
	var ids []string
	for i, x := range p.shares {
		for _, b := range x.state().list {
			if parts[b.id] == nil {
				parts[b.id] = make([]*staged, len(p.shares))
				ids = append(ids, b.id)
			}
			parts[b.id][i] = b
		}
	}
	p.numbers = make([]map[string]int32, len(p.shares))
	for i := range p.numbers {
		p.numbers[i] = map[string]int32{}
	}
	var rows int64
	for _, id := range ids {
		var sum int64
		for _, b := range parts[id] {
			if b != nil {
				sum += b.rows
			}
		}
		if p.settled > 0 && rows+sum > limit {
			p.out.More = true
			for _, x := range p.shares {
				x.state().partial = true
			}
			break
		}
		p.settled++
		ok := true
		for i, x := range p.shares {
			st, b := x.state(), parts[id][i]
			if b == nil {
				ok = false
				continue
			}
			st.chosen = append(st.chosen, b.no)
			p.numbers[i][id] = b.no
			ok = ok && st.intact(b) && b.tables == p.g.list
		}
		if !ok {
			p.out.Mismatched = append(p.out.Mismatched, id)
			continue
		}
		rows += sum
		p.expect = rows
		whole = append(whole, id)
	}
	return whole
}

// of returns a table's part of batches.
func (p *groupPromotion[R]) of(i int, ids []string) []*staged {
	byNo := map[int32]*staged{}
	for _, b := range p.shares[i].state().list {
		byNo[b.no] = b
	}
	out := make([]*staged, len(ids))
	for n, id := range ids {
		out[n] = byNo[p.numbers[i][id]]
	}
	return out
}

// enter brings batches into the ledgers. The leader's decides which are taken. A batch that another
// ledger has already, or that was promoted into other tables, is set aside: Stage names the reason.
func (p *groupPromotion[R]) enter(ctx context.Context, whole []string) error {
	lead := p.shares[0].state()
	if err := p.shares[0].enter(ctx, p.of(0, whole)); err != nil {
		return err
	}
	var ids []string
	for _, x := range lead.take {
		ids = append(ids, x.id)
	}
	slices.Sort(ids)
	entered := [][]string{ids}
	for i, x := range p.shares[1:] {
		var numbers []int32
		for _, id := range ids {
			numbers = append(numbers, p.numbers[i+1][id])
		}
		own, err := idsOf(ctx, p.q, len(ids), x.sql().ledger.with(args{"numbers": array(numbers)}))
		if err != nil {
			return err
		}
		if err := p.keeps(ctx, i+1, ids, own); err != nil {
			return err
		}
		entered = append(entered, own)
	}
	lacks := func(list []string) func(string) bool {
		return func(id string) bool { return !slices.Contains(list, id) }
	}
	for _, own := range entered[1:] {
		ids = slices.DeleteFunc(slices.Clone(ids), lacks(own))
	}
	p.batches = ids
	aside, err := p.promotedElsewhere(ctx)
	if err != nil {
		return err
	}
	aside = append(aside, slices.DeleteFunc(slices.Clone(entered[0]), func(id string) bool { return slices.Contains(ids, id) })...)
	for i, own := range entered {
		out := slices.DeleteFunc(slices.Clone(own), func(id string) bool { return slices.Contains(ids, id) })
		if len(out) > 0 {
			if _, err := sendOne(ctx, p.q, p.g.views[i].sql.ledgerDelete.with(args{"ids": array(out)})); err != nil {
				return err
			}
		}
	}
	p.out.Mismatched = append(p.out.Mismatched, aside...)
	lead.out.Batches = slices.DeleteFunc(lead.out.Batches, func(b PromotedBatch) bool { return slices.Contains(aside, b.ID) })
	p.expect = 0
	for i, x := range p.shares {
		x.state().takes(p.of(i, ids))
		p.expect += x.state().expect
	}
	return nil
}

// keeps returns an error if a ledger has neither taken a batch nor had it before.
func (p *groupPromotion[R]) keeps(ctx context.Context, share int, ids, own []string) error {
	before := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return slices.Contains(own, id) })
	if len(before) == 0 {
		return nil
	}
	v := p.g.views[share]
	r, err := sendOne(ctx, p.q, v.sql.ledgerKinds.with(args{"ids": array(before)}))
	if err != nil {
		return err
	}
	had := fatesOf(r)
	for _, id := range before {
		if _, ok := had[id]; !ok {
			return notKept(v.names.ledger, id)
		}
	}
	return nil
}

// promotedElsewhere returns the batches that the leader's ledger had before, promoted into other
// tables than those of the group.
func (p *groupPromotion[R]) promotedElsewhere(ctx context.Context) ([]string, error) {
	lead := p.shares[0].state()
	taken := map[string]bool{}
	for _, x := range lead.take {
		taken[x.id] = true
	}
	var before, out []string
	for _, b := range lead.out.Batches {
		if !taken[b.ID] && b.Fate == FatePromoted {
			before = append(before, b.ID)
		}
	}
	if len(before) == 0 {
		return nil, nil
	}
	r, err := sendOne(ctx, p.q, p.g.views[0].sql.ledgerKinds.with(args{"ids": array(before)}))
	if err != nil {
		return nil, err
	}
	for row := range r.each() {
		if _, err := p.g.settled(row.text("id"), []ledgerEntry{entryOf(row)}); err != nil {
			out = append(out, row.text("id"))
		}
	}
	return out, nil
}

// settle counts what became of the rows of each table, and of the records.
func (p *groupPromotion[R]) settle(ctx context.Context) error {
	lead := &p.shares[0].state().out
	p.out.Batches, p.out.TooOld = lead.Batches, lead.TooOld
	p.out.Records, p.out.Kept, p.out.Duplicates, p.out.Filtered, p.out.Rejected = lead.Records, lead.Kept, lead.Duplicates, lead.Filtered, lead.Rejected
	for i, x := range p.shares {
		st := x.state()
		if st.refused > 0 {
			if _, err := sendOne(ctx, p.q, p.g.views[i].sql.rejectsWhole.with(args{"batches": array(p.batches)})); err != nil {
				return err
			}
		}
		if err := x.settle(ctx); err != nil {
			return err
		}
		p.out.Rows, p.out.Conflicts, p.out.RejectedByRule = p.out.Rows+st.out.Rows, p.out.Conflicts+st.out.Conflicts, p.out.RejectedByRule+st.out.RejectedByRule
	}
	return nil
}

// suspicion is a condition on rows that a constraint of the target will probably refuse. For a
// foreign key it names the parent's table, its columns, and what they must equal.
type suspicion struct {
	condition string
	parent    int64 // 0: no other table
	equal     string
	columns   []string
}

// suspicionsOf reads the answer of the suspects statement.
func suspicionsOf(r result) ([]suspicion, error) {
	var out []suspicion
	for row := range r.each() {
		x := suspicion{condition: row.text("condition"), parent: row.int("parent"), equal: row.text("equal")}
		if err := json.Unmarshal(row.value("parent_columns"), &x.columns); err != nil {
			return nil, fmt.Errorf("staging: unexpected columns of a foreign key: %w", err)
		}
		out = append(out, x)
	}
	return out, nil
}
