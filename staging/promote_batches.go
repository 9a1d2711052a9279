package staging

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
)

// A promotion sorts its rows, and Postgres' default of 4 MB would send 20,000 of them to disk.
const sqlMemory = `SELECT set_config('work_mem', '64MB', true) WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('64MB')`

// lock takes the sealed side, which waits for the COPYs under way, and reads what is in it.
func (p *promotion[T]) lock(ctx context.Context) (list []*staged, counts, refusals map[int32]int64, err error) {
	t, sql := p.t, &p.t.sql.side[p.s]
	// A deferred constraint would fail the commit, where nobody can tell which row it was.
	res, err := send(ctx, p.q, append(t.beginning(true), do("SET CONSTRAINTS ALL IMMEDIATE"), do(sqlMemory), sql.lock.with(nil), sql.shape.with(nil),
		sql.batches.with(nil), sql.counts.with(nil), sql.rejections.with(nil))...)
	if err != nil {
		return nil, nil, nil, err
	}
	res = res[6:]
	if err := t.sameColumns(p.s, res[0].texts("name")); err != nil {
		return nil, nil, nil, err
	}
	for row := range res[1].each() {
		list = append(list, &staged{no: int32(row.int("no")), id: row.text("id"), rows: row.int("rows"), rejected: row.int("rejected"),
			records: row.int("records"), kept: row.int("kept"), dups: row.int("duplicates"), filters: row.int("filtered")})
	}
	if len(res[2].Rows) > 0 && t.spread() != "" {
		p.lo, p.hi = res[2].row(0).text("least"), res[2].row(0).text("greatest")
	}
	if counts, err = countsOf(res[2]); err != nil {
		return nil, nil, nil, err
	}
	refusals, err = countsOf(res[3])
	return list, counts, refusals, err
}

// sameColumns refuses to promote rows of which this program does not know a column: it would lose that one.
func (t *Table[T]) sameColumns(s side, found []string) error {
	var drifts []Drift
	for _, c := range found {
		if c != colRecord && !slices.Contains(t.colNames, c) {
			drifts = append(drifts, Drift{Column: c, Found: "a column of another version of this program"})
		}
	}
	if len(drifts) > 0 {
		return &DriftError{Table: t.staging[s], Drifts: drifts}
	}
	return nil
}

// pick decides which batches this transaction commits, and enters them into the ledger.
func (p *promotion[T]) pick(ctx context.Context, list []*staged, counts, refusals map[int32]int64, limit int64) error {
	t, q := p.t, p.q
	p.take = map[int32]*staged{}
	byID := map[string]*staged{}
	var nos []int32
	var rows, inSide int64
	for _, n := range counts {
		inSide += n
	}
	for _, x := range list {
		if len(p.chosen) > 0 && rows+x.rows > limit {
			p.out.More = true
			break
		}
		p.chosen = append(p.chosen, x.no)
		if counts[x.no] != x.rows || refusals[x.no] != x.rejected {
			p.out.Mismatched = append(p.out.Mismatched, x.id)
			continue
		}
		rows += x.rows
		p.expect = rows
		byID[x.id] = x
		nos = append(nos, x.no)
	}
	own, err := idsOf(ctx, q, len(nos), t.sql.side[p.s].ledger.with(args{"numbers": array(nos)}))
	if err != nil {
		return err
	}
	// The floor is read after the insert: when the ledger's old row was pruned before it, this snapshot sees the floor too.
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
	rows = 0
	for _, id := range own {
		if slices.Contains(old, id) {
			continue
		}
		x := byID[id]
		p.take[x.no] = x
		rows += x.rows
		p.multi = p.multi || x.rows != x.kept
		p.out.Batches = append(p.out.Batches, PromotedBatch{ID: id, Fate: FatePromoted})
		p.out.Records += int(x.records)
		p.out.Kept += int(x.kept)
		p.out.Duplicates += int(x.dups)
		p.out.Filtered += int(x.filters)
		p.out.Rejected += int(x.rejected)
		delete(byID, id)
	}
	p.expect = rows
	p.every = rows == inSide
	for _, id := range old {
		delete(byID, id)
	}
	if len(byID) == 0 {
		return nil
	}
	var rest []string // in the ledger before us
	for id := range byID {
		rest = append(rest, id)
	}
	slices.Sort(rest)
	r, err := sendOne(ctx, q, t.sql.ledgerKinds.with(args{"ids": array(rest)}))
	if err != nil {
		return err
	}
	kinds := fatesOf(r)
	for _, id := range rest {
		if f, ok := kinds[id]; ok {
			p.out.Batches = append(p.out.Batches, PromotedBatch{ID: id, Fate: f})
		}
	}
	return nil
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

// correct writes what the ledger could not know at first.
func (p *promotion[T]) correct(ctx context.Context) error {
	var ids []string
	var conflicts, ruled []int32
	for _, no := range p.numbers() {
		if x := p.take[no]; x.conflicts > 0 || x.ruled > 0 {
			ids, conflicts, ruled = append(ids, x.id), append(conflicts, int32(x.conflicts)), append(ruled, int32(x.ruled))
		}
	}
	if len(ids) > 0 {
		if _, err := sendOne(ctx, p.q, p.t.sql.ledgerCorrect.with(args{"ids": array(ids), "conflicts": array(conflicts), "refused": array(ruled)})); err != nil {
			return err
		}
	}
	return nil
}
