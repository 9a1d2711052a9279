package staging

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Void is [Table.Void]. It writes into the ledgers of all members, in one transaction, so a program
// that stages into one of the tables alone cannot bring the batch in later. If the batch was
// promoted into other tables than those of the group, Void returns [ErrConfig], as
// [TableGroup.Stage] does, and changes nothing.
func (g *TableGroup[R]) Void(ctx context.Context, b Batch) (Fate, error) {
	if err := g.Check(ctx); err != nil {
		return 0, err
	}
	if err := checkBatch(&b, 0); err != nil {
		return 0, err
	}
	c, err := acquire(ctx, g.views[0].pool)
	if err != nil {
		return 0, fmt.Errorf("staging: %w", err)
	}
	defer c.Release()
	for try := 0; ; try++ {
		f, err := g.void(ctx, c.Conn(), &b)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, ErrConfig):
			return 0, err
		case sqlState(err) == deadlockDetected && try < 5: // a group with another order of the same tables
			continue
		}
		return 0, g.explain("voiding batch "+b.ID, err)
	}
}

func (g *TableGroup[R]) void(ctx context.Context, q *pgx.Conn, b *Batch) (Fate, error) {
	defer g.lead().rollback(q)
	run := g.lead().beginning(durably)
	for _, v := range g.views { // each waits for a promoter that has inserted the batch, as in Table.void
		run = append(run, v.sql.ledgerVoid.with(b.voided()))
	}
	run = append(run, barrier)
	if _, err := send(ctx, q, run...); err != nil {
		return 0, err
	}
	if err := g.at("void inserted"); err != nil {
		return 0, err
	}
	res, err := send(ctx, q, g.kindsOf([]string{b.ID})...) // a new snapshot
	if err != nil {
		return 0, err
	}
	for _, of := range g.entriesOf(res) {
		f, err := g.settled(b.ID, of)
		if err != nil {
			return 0, err
		}
		if f == FatePromoted { // what the other ledgers got is rolled back
			g.lead().rollback(q)
			return f, g.lead().confirm(ctx, q)
		}
		return f, g.lead().commit(ctx, q, "")
	}
	return 0, fmt.Errorf("the ledger rows were pruned in the meantime")
}

// Fates is [Table.Fates]. A batch that only some tables hold is FateStaged: the next promotion sets
// it aside, and then it is FateUnknown. So is a batch that was promoted into other tables than
// those of the group: it is delivered again, and [TableGroup.Stage] returns the error.
func (g *TableGroup[R]) Fates(ctx context.Context, ids []string) ([]Fate, error) {
	if err := g.Check(ctx); err != nil {
		return nil, err
	}
	var registries []call
	for _, i := range g.byName {
		registries = append(registries, g.views[i].sql.groupRegistered.with(args{"ids": array(ids), "leader": g.leader}))
	}
	return fatesFrom(ctx, ids, g.lead(), fateSource{registries: registries, ledgers: g.kindsOf(ids), settled: g.fatesOf, at: g.at})
}

// Epoch returns a marker of the UNLOGGED tables of all members. It changes when that of one table
// changes.
func (g *TableGroup[R]) Epoch(ctx context.Context) (string, error) {
	if err := g.Check(ctx); err != nil {
		return "", err
	}
	c, err := acquire(ctx, g.views[0].pool)
	if err != nil {
		return "", fmt.Errorf("staging: %w", err)
	}
	defer c.Release()
	e, err := g.epoch(ctx, c.Conn())
	if err != nil {
		return "", g.explain("reading the epoch", err)
	}
	return e, nil
}

func (g *TableGroup[R]) epoch(ctx context.Context, q *pgx.Conn) (string, error) {
	defer g.lead().rollback(q)
	run := g.lead().beginning(reads)
	begun := len(run)
	for _, v := range g.views {
		run = append(run, v.sql.readEpoch.with(nil))
	}
	res, err := send(ctx, q, append(run, do("commit"))...)
	if err != nil {
		return "", err
	}
	epochs := make([]string, len(g.tables))
	for i, t := range g.tables {
		if e := res[begun+i].texts("epoch"); len(e) > 0 {
			epochs[i] = e[0]
		} else if epochs[i], err = t.mark(ctx, q); err != nil {
			return "", err
		}
	}
	return strings.Join(epochs, separator), nil
}

// Stats is [Table.Stats] of what the group has staged. Batches and records count once, rows over
// all tables.
func (g *TableGroup[R]) Stats(ctx context.Context) (Stats, error) {
	if err := g.Check(ctx); err != nil {
		return Stats{}, err
	}
	var out Stats
	for i, t := range g.tables {
		s, err := t.statsBy(ctx, g.leader)
		if err != nil {
			return Stats{}, err
		}
		if i == 0 {
			out = s
			continue
		}
		out.Rows, out.Foreign, out.Promoting = out.Rows+s.Rows, out.Foreign+s.Foreign, out.Promoting || s.Promoting
	}
	return out, nil
}

// TableBooks are the books of one table of a group.
type TableBooks struct {
	Table string // the quoted target
	Books
}

// Books sums the ledgers. Records are counted once, by the ledger of the leader, and rows over all
// tables. Batches that programs have promoted into single tables, outside the group, are counted
// too.
func (g *TableGroup[R]) Books(ctx context.Context) (Books, error) {
	return g.BooksSince(ctx, time.Time{})
}

// BooksSince is [TableGroup.Books] over the batches committed since a time. The zero time includes
// all of them.
func (g *TableGroup[R]) BooksSince(ctx context.Context, since time.Time) (Books, error) {
	each, err := g.BooksByTable(ctx, since)
	if err != nil {
		return Books{}, err
	}
	out := each[0].Books
	for _, b := range each[1:] {
		out.Staged, out.Rows = out.Staged+b.Staged, out.Rows+b.Rows
		out.Conflicts, out.RejectedByRule = out.Conflicts+b.Conflicts, out.RejectedByRule+b.RejectedByRule
	}
	return out, nil
}

// BooksByTable sums the ledger of each table, in one snapshot. In the tables after the first, a
// record without a row there counts as filtered.
func (g *TableGroup[R]) BooksByTable(ctx context.Context, since time.Time) ([]TableBooks, error) {
	if err := g.Check(ctx); err != nil {
		return nil, err
	}
	var parts []string
	for i, v := range g.views {
		parts = append(parts, fmt.Sprintf("SELECT %d AS i, b%d.* FROM (%s) b%d", i, i, v.sql.ledgerBooks.text, i))
	}
	type row struct {
		I int32
		Books
	}
	rows, err := g.lead().query(ctx, do(strings.Join(parts, "\nUNION ALL ")+"\nORDER BY i", boundText(since), "infinity"))
	if err != nil {
		return nil, g.explain("summing the ledgers", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	if err != nil {
		return nil, g.explain("summing the ledgers", err)
	}
	out := make([]TableBooks, len(all))
	for i, x := range all {
		out[i] = TableBooks{g.views[i].names.target, x.Books}
	}
	return out, nil
}

// StageCounts is [Table.StageCounts] of the leader, whose ledger has the counts of the records.
func (g *TableGroup[R]) StageCounts(ctx context.Context, since time.Time) ([]StageCount, error) {
	if err := g.Check(ctx); err != nil {
		return nil, err
	}
	return g.lead().StageCounts(ctx, since)
}

// Clock is [Table.Clock].
func (g *TableGroup[R]) Clock(ctx context.Context) (time.Time, error) {
	if err := g.Check(ctx); err != nil {
		return time.Time{}, err
	}
	return g.lead().Clock(ctx)
}

// RejectsByBatch is [Table.RejectsByBatch] over all tables. A rejected record appears once. Its key
// is that of the first table that knows one, parents before children: a child may be rejected
// because it names the wrong parent.
func (g *TableGroup[R]) RejectsByBatch(ctx context.Context, ids []string) (map[string][]Reject, error) {
	return g.rejectsOf(ctx, ids, groupTable.RejectsByBatch)
}

// RejectedKeys is [Table.RejectedKeys] over all tables.
func (g *TableGroup[R]) RejectedKeys(ctx context.Context, ids []string) (map[string][]Reject, error) {
	return g.rejectsOf(ctx, ids, groupTable.RejectedKeys)
}

func (g *TableGroup[R]) rejectsOf(ctx context.Context, ids []string, read func(groupTable, context.Context, []string) (map[string][]Reject, error)) (map[string][]Reject, error) {
	if err := g.Check(ctx); err != nil {
		return nil, err
	}
	out := map[string][]Reject{}
	at := map[recordKey]int{}
	for _, i := range *g.parents.Load() {
		found, err := read(g.tables[i], ctx, ids)
		if err != nil {
			return nil, err
		}
		for id, rejects := range found {
			for _, r := range rejects {
				k := recordKey{id, r.Pos}
				i, known := at[k]
				switch {
				case !known:
					at[k] = len(out[id])
					out[id] = append(out[id], r)
				case out[id][i].Key == "":
					out[id][i].Key = r.Key
				}
			}
		}
	}
	for id := range out {
		slices.SortFunc(out[id], func(a, b Reject) int { return cmp.Compare(a.Pos, b.Pos) })
	}
	return out, nil
}

// Prune is [Table.Prune] of every table, the leader first. It returns how many rows it deleted from
// the leader's ledger.
func (g *TableGroup[R]) Prune(ctx context.Context, before time.Time) (int, error) {
	if err := g.Check(ctx); err != nil {
		return 0, err
	}
	n, err := g.lead().Prune(ctx, before)
	for _, t := range g.tables[1:] {
		if err == nil {
			_, err = t.Prune(ctx, before)
		}
	}
	return n, err
}
