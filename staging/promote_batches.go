package staging

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// lock takes the sealed side, which waits for the COPYs under way, and reads what is in it.
func (p *promotion) lock(ctx context.Context) error {
	t := p.t
	res, err := t.inSlices(ctx, p.q, []call{p.sql().lock.with(nil), t.sql.lockTarget.with(nil)}, p.readCalls(), func() error { return t.at("between slices") })
	if err != nil {
		return err
	}
	return p.read(res)
}

// beginPromotion begins the transaction of a promotion. A deferred constraint would fail at the
// commit, and the error would not tell which row it was.
func (t *table) beginPromotion() []call {
	return append(t.beginning(durably), checkAtOnce, ownMemory, ownPlans)
}

// checkAtOnce has deferred constraints checked now, and from now on at the end of each statement.
var checkAtOnce = do("SET CONSTRAINTS ALL IMMEDIATE")

// readCalls read what is in the side, and what may refuse its rows.
func (p *promotion) readCalls() []call {
	sql := p.sql()
	return []call{sql.shape.with(nil), sql.batches.with(nil), sql.counts.with(nil), sql.rejections.with(nil), p.t.sql.guards.with(nil), sql.suspects.with(nil)}
}

// read takes the results of readCalls.
func (p *promotion) read(res []result) (err error) {
	t := p.t
	if err := t.checkPromote(p.s, res[0]); err != nil {
		return err
	}
	for row := range res[1].each() {
		x := &staged{no: int32(row.int("no")), id: row.text("id"), rows: row.int("rows"), rejected: row.int("rejected"),
			records: row.int("records"), kept: row.int("kept"), dups: row.int("duplicates"), filters: row.int("filtered"), tables: row.text("tables")}
		if strings.HasPrefix(x.tables, p.leader) && (x.tables == "") == (p.leader == "") {
			p.list = append(p.list, x)
		} else {
			p.others++
		}
	}
	p.found = len(p.list)
	if len(res[2].Rows) > 0 && t.spread() != "" {
		p.lo, p.hi = res[2].row(0).text("least"), res[2].row(0).text("greatest")
	}
	if p.counts, err = countsOf(res[2]); err != nil {
		return err
	}
	if p.early, err = countsOf(res[3]); err != nil {
		return err
	}
	g := res[4].row(0)
	if err := errors.Join(t.checkGuards(g), t.checkBookkeeping(g)); err != nil {
		return err
	}
	p.beforeRow, p.children = g.bool("before_row"), g.bool("children")
	p.parentsCome = g.bool("triggers") || g.bool("tree")
	p.guarded = g.bool("triggers") || g.bool("guarded")
	p.backend = g.int("backend")
	p.triggers, p.target = g.bool("triggers"), g.int("target")
	p.suspicions, err = suspicionsOf(res[5])
	p.suspects = p.suspicious()
	return err
}

// checkGuards compares what the target must have with what it had when the program started.
func (t *table) checkGuards(g record) error {
	if !g.bool("arbiter") {
		return fmt.Errorf("%w: Config.Key (%s): %s no longer has a valid unique index of just these columns", ErrDrift, list("", t.cfg.Key), t.target)
	}
	if unlogged := g.text("unlogged"); unlogged != "" && !t.cfg.AllowUnlogged {
		return volatileError(t.target, []string{unlogged})
	}
	if err := errors.Join(unfitError(t.target, g.text("unfit")), closedError(t.target, g.bool("closed"))); err != nil {
		return err
	}
	if lanes := g.int("lanes"); lanes > 1 && g.bool("tree") {
		return fmt.Errorf("%w: a foreign key of %s refers to the table itself, and with %d lanes a row's parent may be in another one: drop the constraint, or stop the programs, give back what is staged (DiscardStaged) and take the lanes away (RetireLanes)",
			ErrDrift, t.target, lanes)
	}
	return nil
}

// intact is true if all of a batch is in the side that its registry announces.
func (p *progress) intact(x *staged) bool {
	return p.counts[x.no] == x.rows && p.early[x.no] == x.rejected
}

// pick decides which batches this transaction settles. It returns those that are intact.
func (p *promotion) pick(limit int64) (whole []*staged) {
	var rows int64
	for _, x := range p.list {
		if len(p.chosen) > 0 && rows+x.rows > limit {
			p.partial = true
			break
		}
		p.chosen = append(p.chosen, x.no)
		if !p.intact(x) {
			p.out.Mismatched = append(p.out.Mismatched, x.id)
			continue
		}
		rows += x.rows
		whole = append(whole, x)
	}
	return whole
}

// enter brings batches into the ledger. The promotion takes those that were not there.
func (p *promotion) enter(ctx context.Context, whole []*staged) error {
	t, q := p.t, p.q
	byID := map[string]*staged{}
	var nos []int32
	for _, x := range whole {
		byID[x.id] = x
		nos = append(nos, x.no)
		p.expect += x.rows
	}
	own, err := idsOf(ctx, q, len(nos), p.sql().ledger.with(args{"numbers": array(nos)}))
	if err != nil {
		return err
	}
	// The floor is read after the insert. If the ledger's old row was pruned before the insert, this
	// snapshot sees the new floor too.
	old, err := idsOf(ctx, q, len(own), t.sql.ledgerTooOld.with(args{"ids": array(own)}))
	if err != nil {
		return err
	}
	if len(old) > 0 {
		if _, err := sendOne(ctx, q, t.sql.ledgerDelete.with(args{"ids": array(old)})); err != nil {
			return err
		}
		p.out.TooOld = old
	}
	var taken []*staged
	for _, id := range own {
		if !slices.Contains(old, id) {
			taken = append(taken, byID[id])
			p.out.Batches = append(p.out.Batches, PromotedBatch{ID: id, Fate: FatePromoted})
		}
		delete(byID, id)
	}
	p.takes(taken)
	if len(byID) == 0 {
		return nil
	}
	rest := slices.Sorted(maps.Keys(byID)) // in the ledger before us
	res, err := send(ctx, q, t.sql.ledgerKinds.with(args{"ids": array(rest)}), barrier)
	if err != nil {
		return err
	}
	kinds := fatesOf(res[0])
	for _, id := range rest {
		f, ok := kinds[id]
		if !ok { // or pruned a moment ago: then the next attempt enters it
			return notKept(t.ledger, id)
		}
		p.out.Batches = append(p.out.Batches, PromotedBatch{ID: id, Fate: f})
	}
	return nil
}

// takes fixes the batches that this transaction commits.
func (p *progress) takes(batches []*staged) {
	p.take = make(map[int32]*staged, len(batches))
	p.expect = 0
	p.out.Records, p.out.Kept, p.out.Duplicates, p.out.Filtered, p.out.Rejected = 0, 0, 0, 0, 0
	for _, x := range batches {
		p.take[x.no] = x
		p.expect += x.rows
		p.multi = p.multi || x.rows != x.kept
		p.out.Records += int(x.records)
		p.out.Kept += int(x.kept)
		p.out.Duplicates += int(x.dups)
		p.out.Filtered += int(x.filters)
		p.out.Rejected += int(x.rejected)
	}
	var inSide int64
	for _, n := range p.counts {
		inSide += n
	}
	p.every = p.expect == inSide
}

// idsOf runs a statement about n batches and returns their ids. For none it runs nothing.
func idsOf(ctx context.Context, q *pgx.Conn, n int, c call) ([]string, error) {
	if n == 0 {
		return nil, nil
	}
	r, err := sendOne(ctx, q, c)
	if err != nil {
		return nil, err
	}
	return r.texts("id"), nil
}

// settle finds out, batch by batch, which rows were written, rejected, or left out because of their
// key. It writes the counts into the ledger.
func (p *promotion) settle(ctx context.Context) error {
	if err := p.everyRowRefused(ctx); err != nil {
		return err
	}
	remaining := make(map[int32]int64, len(p.take))
	for no, x := range p.take {
		remaining[no] = x.rows
	}
	if p.refused > 0 {
		r, err := sendOne(ctx, p.q, p.sql().remaining.where(p.which()).with(nil))
		if err != nil {
			return err
		}
		left, err := countsOf(r)
		if err != nil {
			return err
		}
		for no, x := range p.take {
			remaining[no] = left[no]
			x.ruled = x.rows - left[no]
		}
	}
	if err := p.countRejects(ctx); err != nil {
		return err
	}
	p.out.Rows, p.out.RejectedByRule = int(p.written), int(p.refused)
	if err := p.countConflicts(ctx, remaining); err != nil {
		return err
	}
	var ids []string
	var conflicts, refused []int32
	for _, no := range p.numbers() {
		if x := p.take[no]; x.conflicts > 0 || x.ruled > 0 {
			ids, conflicts, refused = append(ids, x.id), append(conflicts, int32(x.conflicts)), append(refused, int32(x.ruled))
		}
	}
	if len(ids) == 0 {
		return nil
	}
	_, err := sendOne(ctx, p.q, p.t.sql.ledgerCorrect.with(args{"ids": array(ids), "conflicts": array(conflicts), "refused": array(refused)}))
	return err
}

// countRejects brings the counts by code up to date. It fails if a reject was not kept: a trigger
// or a rule of the rejects may drop rows without an error, and the record would be lost. There may
// be more rejects, where a batch was promoted before and the ledger has lost it.
func (p *promotion) countRejects(ctx context.Context) error {
	var ids []string
	var want int64
	for _, no := range p.numbers() {
		if x := p.take[no]; x.rejected > 0 || x.ruled > 0 {
			ids = append(ids, x.id)
			want += x.rejected + x.ruled
		}
	}
	if len(ids) == 0 {
		return nil
	}
	r, err := sendOne(ctx, p.q, p.t.sql.countRejects.with(args{"batches": array(ids), "most": text(mostCounts)}))
	if err != nil {
		return err
	}
	if found := r.row(0).int("found"); found < want {
		return fmt.Errorf("%w: %s has kept %d of %d rejects: it must not have a trigger, a rule or a policy that drops rows", ErrDrift, p.t.rejects, found, want)
	}
	return nil
}

// countConflicts fills in the conflicts of each batch: the rows that are left in the side and were
// not written.
func (p *promotion) countConflicts(ctx context.Context, remaining map[int32]int64) error {
	t, want := p.t, p.expect-p.refused
	conflicts := want - p.written
	switch {
	case conflicts == 0:
		return nil
	case conflicts < 0 || len(t.cfg.Key) == 0:
		return fmt.Errorf("staging: %s took %d rows of %d: does it have a trigger or rule that drops or adds rows?", t.target, p.written, want)
	case t.cfg.Conflict == ConflictFail:
		return p.conflictError(ctx, conflicts)
	}
	p.out.Conflicts = int(conflicts)
	if changed, err := p.changedKeys(ctx); err != nil {
		return err
	} else if changed {
		t.recount.Store(lookFor)
		return errRecount
	}
	if p.byBatch {
		for no, n := range remaining {
			p.take[no].conflicts = n - p.wroteBy[no]
		}
		return nil
	}
	r, err := sendOne(ctx, p.q, p.sql().conflicts.where(p.which()).with(nil))
	if err != nil {
		return err
	}
	counts, err := countsOf(r)
	if err != nil {
		return err
	}
	var sum int64
	for _, n := range counts {
		sum += n
	}
	if t.cfg.Conflict == ConflictReplace { // a row that was written and then replaced by this promotion counts as written
		for no := range counts {
			less := min(counts[no], max(0, sum-conflicts))
			counts[no], sum = counts[no]-less, sum-less
		}
	}
	if sum != conflicts {
		// A trigger or a writer outside changed keys in between. Batch by batch the count is exact.
		return errRecount
	}
	for no, n := range counts {
		p.take[no].conflicts = n
	}
	return nil
}

// conflictError names the first record whose key was there.
func (p *promotion) conflictError(ctx context.Context, conflicts int64) error {
	e := &ConflictError{Table: p.t.target, Rows: int(conflicts)}
	first := p.sql().firstConflict.where(p.which()).with(nil)
	if p.clashed {
		first = p.sql().conflictAt.with(args{"record": text(p.clash)})
	}
	r, err := sendOne(ctx, p.q, first)
	if err != nil {
		return err
	}
	for row := range r.each() {
		e.Key, e.Batch, e.Pos = row.text("key"), row.text("batch"), int32(row.int("pos"))
		e.Root, e.Place = row.text("root"), int(row.int("place"))
	}
	return e
}

var errRecount = errors.New("staging: conflicts do not add up")

// errNotKept is an insert into the ledger that left no row there.
var errNotKept = fmt.Errorf("%w", ErrDrift)

func notKept(ledger, batch string) error {
	return fmt.Errorf("%w: %s has not kept batch %s: it must not have a trigger or a rule that drops rows", errNotKept, ledger, batch)
}
