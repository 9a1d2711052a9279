package staging

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// share is one table's part in the promotion of a group.
type share interface {
	state() *progress
	sql() *sideStatements
	readCalls() []call
	read(res []result) error
	enter(ctx context.Context, whole []*staged) error
	moveRejects(ctx context.Context) error
	applyRules(ctx context.Context) error
	rejectSuspects(ctx context.Context) error
	insert(ctx context.Context) error
	everyRowRefused() error
	finishMerges(ctx context.Context) error
	settle(ctx context.Context) error
	empty(ctx context.Context) (last string, err error)
	learn()
}

func (t *table) share(q *pgx.Conn, s side, leader string, byBatch bool) share {
	return &promotion{t: t, progress: progress{q: q, s: s, leader: leader, byBatch: byBatch, multi: true, wroteBy: map[int32]int64{}}}
}

func (p *promotion) state() *progress { return &p.progress }

// groupPromotion is one promotion transaction of a group.
type groupPromotion[R any] struct {
	g       *TableGroup[R]
	q       *pgx.Conn
	s       side
	out     PromoteResult
	found   int
	settled int
	expect  int64
	shares  []share // of the tables, as they were given
	order   []int   // parents before children
	batches []string
	numbers []map[string]int32 // of the batches, by table
	gone    map[recordKey]cause
}

// Promote moves staged batches into the targets of all members: one transaction, whole batches,
// each exactly once, parents before children. A record of which one table rejects a row is rejected
// in all of them. PromoteResult counts records once, and rows over all tables. In all else it is as
// [Table.Promote].
func (g *TableGroup[R]) Promote(ctx context.Context, o PromoteOptions) (PromoteResult, error) {
	if err := g.Check(ctx); err != nil {
		return PromoteResult{}, err
	}
	out, err := attempts(ctx, o, &g.bound, g)
	if !errors.Is(err, ErrConfig) {
		g.lead().noteOutcome(ctx, err)
	}
	return out, err
}

func (g *TableGroup[R]) promoteOnce(ctx context.Context, limit int64, byBatch bool) (attempt, error) {
	p := &groupPromotion[R]{g: g, gone: map[recordKey]cause{}}
	err := p.once(ctx, limit, byBatch)
	a := attempt{out: p.out, found: p.found, settled: p.settled, expect: p.expect, learn: p.learn, resolve: p.resolve}
	if err != nil {
		a.settled = 0
	}
	return a, err
}

func (p *groupPromotion[R]) once(ctx context.Context, limit int64, byBatch bool) error {
	g := p.g
	c, err := g.views[0].pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	p.q = c.Conn()
	defer g.lead().rollback(p.q)
	if p.s, p.out.Epoch, err = g.choose(ctx, p.q); err != nil || p.s == noSide {
		return err
	}
	for _, t := range g.tables {
		p.shares = append(p.shares, t.share(p.q, p.s, g.leader, byBatch))
	}
	p.found = 1
	return p.run(ctx, limit)
}

func (p *groupPromotion[R]) learn() {
	for _, x := range p.shares {
		x.learn()
	}
}

// resolve finds out whether a commit was done whose answer was lost.
func (p *groupPromotion[R]) resolve(ctx context.Context) bool {
	if len(p.batches) == 0 {
		return false
	}
	fates, err := p.g.Fates(ctx, p.batches)
	return err == nil && !slices.ContainsFunc(fates, func(f Fate) bool { return f != FatePromoted })
}

// endStalled disconnects workers whose COPY into a table of the group stands still.
func (g *TableGroup[R]) endStalled(ctx context.Context) (ended int, err error) {
	for _, t := range g.tables {
		n, err := t.endStalled(ctx)
		if err != nil || n > 0 {
			return n, err
		}
	}
	return 0, nil
}

// busy names the processes that hold the lock that a promotion could not acquire.
func (g *TableGroup[R]) busy(ctx context.Context, err error) error {
	var out error
	for _, t := range g.tables {
		out = t.busy(ctx, err)
		if strings.Contains(out.Error(), "are held by") {
			return out
		}
	}
	return out
}

// choose finds the side to promote, as Table.choose does. The leader decides which side is open; in
// the other tables the same one is opened, for programs that stage into them alone.
func (g *TableGroup[R]) choose(ctx context.Context, q *pgx.Conn) (side, string, error) {
	run := g.lead().beginning(false)
	begun := len(run)
	for _, i := range g.byName {
		run = append(run, g.views[i].sql.fullSides.with(args{"leader": g.leader}))
	}
	res, err := send(ctx, q, append(run, do("commit"))...)
	if err != nil {
		return noSide, "", err
	}
	var full [2]bool
	var s side
	for n, i := range g.byName {
		row := res[begun+n].row(0)
		full[sideA], full[sideB] = full[sideA] || row.bool("full_a"), full[sideB] || row.bool("full_b")
		if i == 0 {
			s = sideOf(row.text("open"))
			g.views[0].failing.Store(row.bool("failing"))
		}
	}
	epoch, err := g.epoch(ctx, q)
	switch {
	case err != nil:
		return noSide, "", err
	case full[s.other()]:
		return s.other(), epoch, nil
	case !full[s]:
		return noSide, epoch, nil
	}
	g.hint.Store(int32(s.other()))
	if err := g.flip(ctx, q, s); err != nil {
		return noSide, "", err
	}
	return s, epoch, g.at("after flip")
}

// flip seals a side, unless another promoter has done so.
func (g *TableGroup[R]) flip(ctx context.Context, q *pgx.Conn, from side) error {
	defer g.lead().rollback(q)
	run := g.lead().beginning(false)
	for _, i := range g.byName {
		if i == 0 {
			run = append(run, g.views[i].sql.flip.with(args{"to": from.other().String(), "from": from.String()}))
		} else {
			run = append(run, g.views[i].sql.groupFollow.with(args{"to": from.other().String()}))
		}
	}
	_, err := send(ctx, q, append(run, do("commit"))...)
	return err
}

// run is the promotion transaction.
func (p *groupPromotion[R]) run(ctx context.Context, limit int64) error {
	g := p.g
	if err := p.lock(ctx); err != nil {
		return err
	}
	if err := g.at("after lock"); err != nil {
		return err
	}
	if p.found == 0 {
		return nil
	}
	if err := p.enter(ctx, p.pick(limit)); err != nil {
		return err
	}
	if err := g.at("after ledger"); err != nil {
		return err
	}
	if err := p.shares[0].moveRejects(ctx); err != nil {
		return err
	}
	if err := p.write(ctx); err != nil {
		return err
	}
	if err := g.at("after insert"); err != nil {
		return err
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	if err := g.at("before commit"); err != nil {
		return err
	}
	var all strings.Builder
	for _, x := range p.shares {
		last, err := x.empty(ctx)
		if err != nil {
			return err
		}
		all.WriteString(last)
	}
	if err := commit(ctx, p.q, all.String()); err != nil {
		return err
	}
	return g.at("after commit")
}

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
				st.suspects = append(st.suspects, y.condition)
			case i < 0:
				st.orphans = append(st.orphans, y.condition)
			case !slices.ContainsFunc(y.columns, func(c string) bool { return !slices.Contains(p.g.views[i].columns, c) }):
				st.orphans = append(st.orphans, y.condition+" AND NOT EXISTS (SELECT FROM "+p.g.views[i].names.staging[p.s]+" hr_parent WHERE "+y.equal+")")
			}
		}
	}
}

// pick decides which batches this transaction settles, and returns those that are whole: intact in
// every table, and staged by a group of the same tables. A batch of which a table has lost its part
// is put aside in all.
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
// ledger has already, or that was promoted into other tables, is put aside: Stage names the reason.
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

// snapshot is the state of the shares, to go back to.
func (p *groupPromotion[R]) snapshot() []progress {
	out := make([]progress, len(p.shares))
	for i, x := range p.shares {
		out[i] = *x.state()
		out[i].wroteBy = maps.Clone(out[i].wroteBy)
	}
	return out
}
