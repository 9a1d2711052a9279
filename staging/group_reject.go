package staging

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// rejectID makes the id that a reject of table i has in the group, and tableReject takes it apart.
func rejectID(id int64, i int) int64            { return id*mostMembers + int64(i) }
func tableReject(id int64) (of int64, i int)    { return id / mostMembers, int(id % mostMembers) }
func afterReject(after int64, i int) (of int64) { return (after-int64(i)+mostMembers)/mostMembers - 1 }

// Rejects is [Table.Rejects] over all tables, in the order of their ids. The ids are valid for this
// group only. Every row of a rejected record is a reject of its table.
//
// The ids of the tables are independent of each other, so the order is not that of time. Paging
// with RejectFilter.After returns every reject that was there when it began, and may miss later
// ones: to follow them, use RejectFilter.Since.
func (g *TableGroup[R]) Rejects(ctx context.Context, f RejectFilter) ([]StoredReject, error) {
	if err := g.Check(ctx); err != nil {
		return nil, err
	}
	var out []StoredReject
	for i, t := range g.tables {
		part := f
		part.After = afterReject(f.After, i)
		found, err := t.Rejects(ctx, part)
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			r.ID = rejectID(r.ID, i)
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b StoredReject) int { return cmp.Compare(a.ID, b.ID) })
	if limit := cmp.Or(f.Limit, DefaultPage); len(out) > limit {
		out = out[:limit]
	}
	return out, nil
}

// CodeCounts is [Table.CodeCounts], summed over all tables. A rejected record counts once for each
// of its rows.
func (g *TableGroup[R]) CodeCounts(ctx context.Context) ([]CodeCount, error) {
	if err := g.Check(ctx); err != nil {
		return nil, err
	}
	sum := map[string]CodeCount{}
	for _, t := range g.tables {
		counts, err := t.CodeCounts(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range counts {
			x := sum[c.Code]
			sum[c.Code] = CodeCount{Code: c.Code, Open: x.Open + c.Open, Resolved: x.Resolved + c.Resolved}
		}
	}
	out := make([]CodeCount, 0, len(sum))
	for _, code := range slices.Sorted(maps.Keys(sum)) {
		out = append(out, sum[code])
	}
	return out, nil
}

// Resolve marks the records of some rejects as resolved, in every table, also in one that is no
// longer a member. It returns how many rejects were open until now, and is otherwise as
// [Table.Resolve].
func (g *TableGroup[R]) Resolve(ctx context.Context, ids ...int64) (int, error) {
	if err := g.Check(ctx); err != nil {
		return 0, err
	}
	c, err := g.begin(ctx)
	if err != nil {
		return 0, g.explain("resolving rejects", err)
	}
	defer c.Release()
	defer g.lead().rollback(c.Conn())
	n, _, err := g.resolve(ctx, c.Conn(), ids)
	if err == nil {
		err = g.lead().commit(ctx, c.Conn(), "")
	}
	if err != nil {
		return 0, g.explain("resolving rejects", err)
	}
	return n, nil
}

// resolve resolves the records of rejects. open holds the records that were open until now.
func (g *TableGroup[R]) resolve(ctx context.Context, q *pgx.Conn, ids []int64) (n int, open map[recordKey]bool, err error) {
	places, err := g.places(ctx, q, ids)
	if err != nil {
		return 0, nil, err
	}
	outside := map[string][]recordKey{} // in tables that are no longer members
	batches, positions := make([]string, 0, len(places)), make([]int32, 0, len(places))
	for k, p := range places {
		batches, positions = append(batches, k.batch), append(positions, k.pos)
		for _, target := range p.outside {
			outside[target] = append(outside[target], k)
		}
	}
	open = map[recordKey]bool{}
	for _, i := range g.byName {
		r, err := sendOne(ctx, q, g.views[i].sql.resolvePlaces.with(args{"batches": array(batches), "positions": array(positions)}))
		if err != nil {
			return 0, nil, err
		}
		n += len(r.Rows)
		for row := range r.each() {
			open[recordKey{row.text("batch"), int32(row.int("pos"))}] = true
		}
	}
	more, err := resolveRecords(ctx, q, outside)
	return n + more, open, err
}

// resolveRecords resolves the rejects of records in tables of which only the names are known, and
// returns how many were open. A table that does not exist any more has none.
func resolveRecords(ctx context.Context, q *pgx.Conn, byTable map[string][]recordKey) (n int, err error) {
	if len(byTable) == 0 {
		return 0, nil
	}
	tables := map[string]names{}
	var rejects []string
	for _, target := range slices.Sorted(maps.Keys(byTable)) { // in the order of a group's own tables
		name, err := parseName(target)
		if err != nil {
			return 0, err
		}
		own := newNames(name, 1)
		tables[own.rejects] = own
		rejects = append(rejects, own.rejects)
	}
	there, err := sendOne(ctx, q, fill("existing_tables", nil).with(args{"names": namesText(rejects)}))
	if err != nil {
		return 0, err
	}
	for _, table := range rejects {
		if !slices.Contains(there.texts("name"), table) {
			continue
		}
		own := tables[table]
		var batches []string
		var positions []int32
		for _, k := range byTable[own.target] {
			batches, positions = append(batches, k.batch), append(positions, k.pos)
		}
		r, err := sendOne(ctx, q, fill("resolve_places", pieces{"rejects": own.rejects, "reject_counts": own.rejectCounts}).
			with(args{"batches": array(batches), "positions": array(positions)}))
		if err != nil {
			return 0, err
		}
		n += len(r.Rows)
	}
	return n, nil
}

// rejectedPlace is a record of which a reject is known.
type rejectedPlace struct {
	rejects []int64  // those that were asked for
	outside []string // tables that the record was rejected in, and that are no members
	missing []string // members that the record was not staged for
	tables  string   // that it was staged for, as the registry names them
	of      int      // the member that has the rejects
}

// places finds the records of rejects.
func (g *TableGroup[R]) places(ctx context.Context, q *pgx.Conn, ids []int64) (map[recordKey]rejectedPlace, error) {
	byTable := make([][]int64, len(g.tables))
	for _, id := range ids {
		of, i := tableReject(id)
		if id < 0 || i >= len(g.tables) {
			return nil, fmt.Errorf("%w: reject %d is of no table of the group", ErrLoad, id)
		}
		byTable[i] = append(byTable[i], of)
	}
	out := map[recordKey]rejectedPlace{}
	for i, of := range byTable {
		if len(of) == 0 {
			continue
		}
		r, err := sendOne(ctx, q, g.views[i].sql.rejectsPlaces.with(args{"ids": array(of)}))
		if err != nil {
			return nil, err
		}
		for row := range r.each() {
			k := recordKey{row.text("batch"), int32(row.int("pos"))}
			p := out[k]
			p.rejects = append(p.rejects, rejectID(row.int("id"), i))
			p.tables, p.of = row.text("tables"), i
			p.outside = slices.DeleteFunc(tablesOf(p.tables), func(target string) bool {
				return slices.ContainsFunc(g.views, func(v tableView) bool { return v.names.target == target })
			})
			p.missing = g.notIn(i, p.tables)
			out[k] = p
		}
	}
	return out, nil
}

// Replay writes corrected records into the targets of all members, parents before children, and
// resolves their rejects in every table, in one transaction. Correction.Rows are the records. A
// record of a group with a table that is no member fails the call with [ErrLoad]: that table would
// not get its rows. So does a record that was not staged for every member, because a table promoted
// it alone, or because the group had fewer members: the others may have its rows from elsewhere.
// Replay it with that table or group. Replay is otherwise as [Table.Replay].
func (g *TableGroup[R]) Replay(ctx context.Context, fixed []Correction[R]) (PromoteResult, error) {
	if err := g.Check(ctx); err != nil {
		return PromoteResult{}, err
	}
	c, err := g.begin(ctx)
	if err != nil {
		return PromoteResult{}, g.explain("replaying rejects into "+g.Name(), err)
	}
	defer c.Release()
	defer g.lead().rollback(c.Conn())
	out, err := g.replay(ctx, c.Conn(), fixed)
	if err == nil && len(out.Batches) > 0 {
		err = g.lead().commitDurably(ctx, c.Conn(), "")
	}
	if err != nil {
		return PromoteResult{}, g.explain("replaying rejects into "+g.Name(), err)
	}
	return out, nil
}

func (g *TableGroup[R]) replay(ctx context.Context, q *pgx.Conn, fixed []Correction[R]) (PromoteResult, error) {
	l, err := g.corrected(ctx, q, fixed)
	if err != nil || l.Batch.Records == 0 {
		return PromoteResult{}, err
	}
	spans, positions := l.records()
	x, err := g.open(l, spans, positions)
	if err != nil {
		return PromoteResult{}, err
	}
	if x.empty > 0 {
		return PromoteResult{}, fmt.Errorf("%w: %d corrected records have no row in any table: use Resolve to abandon a reject", ErrLoad, x.empty)
	}
	order, err := g.lockTargets(ctx, q)
	if err != nil {
		return PromoteResult{}, err
	}
	out := PromoteResult{Batches: []PromotedBatch{{ID: NewBatchID(), Fate: FatePromoted}}, Records: l.Batch.Records, Kept: l.Batch.Records}
	written := make([]int, len(g.tables))
	for _, i := range order {
		if written[i], err = x.members[i].replay(ctx, q); err != nil {
			return PromoteResult{}, err
		}
	}
	for i, v := range g.views {
		n := x.countsOf(i)
		if _, err := sendOne(ctx, q, v.sql.ledgerReplay.with(replayed(out.Batches[0].ID, l.Batch.Records, n.kept, n.rows, written[i], g.list))); err != nil {
			return PromoteResult{}, err
		}
		out.Rows, out.Conflicts = out.Rows+written[i], out.Conflicts+n.rows-written[i]
	}
	return out, nil
}

// corrected resolves the rejects of corrections, and returns as a load the records that were open
// until now.
func (g *TableGroup[R]) corrected(ctx context.Context, q *pgx.Conn, fixed []Correction[R]) (*Load[R], error) {
	ids := make([]int64, len(fixed))
	for i, c := range fixed {
		if len(c.Rows) == 0 {
			return nil, fmt.Errorf("%w: Correction %d has no rows: use Resolve to abandon a reject", ErrLoad, i)
		}
		ids[i] = c.Reject
	}
	places, err := g.places(ctx, q, ids)
	if err != nil {
		return nil, err
	}
	_, open, err := g.resolve(ctx, q, ids)
	if err != nil {
		return nil, err
	}
	recordOf := map[int64]recordKey{}
	for k, p := range places {
		for _, id := range p.rejects {
			recordOf[id] = k
		}
	}
	l := &Load[R]{Pos: []int32{}}
	for _, c := range fixed {
		k, known := recordOf[c.Reject]
		if !known || !open[k] {
			continue
		}
		if outside := places[k].outside; len(outside) > 0 {
			return nil, fmt.Errorf("%w: reject %d is of a record with rows in %s, which is no member of %s: replay it with the members of before, or abandon it with Resolve",
				ErrLoad, c.Reject, strings.Join(outside, ", "), g.Name())
		}
		if p := places[k]; len(p.missing) > 0 {
			return nil, fmt.Errorf("%w: reject %d is of a record that was staged for %s, and this group would also write it into %s: replay it there, or abandon it with Resolve",
				ErrLoad, c.Reject, composition(p.tables, g.views[p.of].names.target), strings.Join(p.missing, ", "))
		}
		for _, r := range c.Rows {
			l.Rows, l.Pos = append(l.Rows, r), append(l.Pos, int32(l.Batch.Records))
		}
		l.Batch.Records++
		delete(open, k)
	}
	return l, nil
}

// lockTargets locks the targets as a promotion does, and returns the tables, parents before
// children.
func (g *TableGroup[R]) lockTargets(ctx context.Context, q *pgx.Conn) ([]int, error) {
	var run []call
	for _, i := range g.byName {
		run = append(run, g.views[i].sql.lockTarget.with(nil))
	}
	res, err := send(ctx, q, append(run, g.parentsCall())...)
	if err != nil {
		return nil, err
	}
	return g.parentsFirst(res[len(run)])
}

// begin opens a transaction that commits durably.
func (g *TableGroup[R]) begin(ctx context.Context) (*pgxpool.Conn, error) {
	return g.lead().begin(ctx, durably)
}
