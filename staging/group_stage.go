package staging

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/pgschema"
)

// memberLoad is what a member stages of a batch.
type memberLoad[R any] interface {
	add(record R, pos int32) (rows int)
	leaveOut(records map[int32]Reject)
	counts() (kept, rows int)
	key(pos int32) string
	replay(ctx context.Context, q *pgx.Conn) (written int, err error)
	copyTo(ctx context.Context, q *pgx.Conn, s side, no int32, how copyHow) ([]Reject, error)
}

// loadOf is a memberLoad with the type of its rows.
type loadOf[R, T any] struct {
	in *into[R, T]
	l  Load[T]
}

func (m *into[R, T]) open(l *Load[R]) memberLoad[R] {
	return &loadOf[R, T]{m, Load[T]{Batch: l.Batch, Payloads: l.Payloads, Encoding: l.Encoding,
		Rows: make([]T, 0, len(l.Rows)), Pos: make([]int32, 0, len(l.Rows))}}
}

// add takes over the rows of a record. Records come in the order of their positions.
func (x *loadOf[R, T]) add(record R, pos int32) int {
	rows := x.in.rows(record)
	x.l.Rows = append(x.l.Rows, rows...)
	for range rows {
		x.l.Pos = append(x.l.Pos, pos)
	}
	return len(rows)
}

// leaveOut drops the rows of some records.
func (x *loadOf[R, T]) leaveOut(records map[int32]Reject) {
	n := 0
	for i, pos := range x.l.Pos {
		if _, out := records[pos]; !out {
			x.l.Rows[n], x.l.Pos[n] = x.l.Rows[i], pos
			n++
		}
	}
	clear(x.l.Rows[n:])
	x.l.Rows, x.l.Pos = x.l.Rows[:n], x.l.Pos[:n]
}

func (x *loadOf[R, T]) counts() (kept, rows int) {
	for i, pos := range x.l.Pos {
		if i == 0 || pos != x.l.Pos[i-1] {
			kept++
		}
	}
	return kept, len(x.l.Rows)
}

// key is the id of a record for the dedup window, or "" if the member does not know it.
func (x *loadOf[R, T]) key(pos int32) string {
	if i, ok := slices.BinarySearch(x.l.Pos, pos); ok {
		return x.in.t.idOf(&x.l.Rows[i])
	}
	return ""
}

func (x *loadOf[R, T]) copyTo(ctx context.Context, q *pgx.Conn, s side, no int32, how copyHow) ([]Reject, error) {
	spans, order := x.l.records()
	return x.in.t.copyAll(ctx, q, s, &x.l, spans, order, len(spans), no, how)
}

// replay writes the rows into the target.
func (x *loadOf[R, T]) replay(ctx context.Context, q *pgx.Conn) (int, error) {
	if len(x.l.Rows) == 0 {
		return 0, nil
	}
	spans, order := x.l.records()
	return x.in.t.writeAside(ctx, q, &x.l, spans, order)
}

// groupLoad is a batch on its way into the tables of a group.
type groupLoad[R any] struct {
	l       *Load[R]
	spans   []span
	order   []int
	members []memberLoad[R]
	parents []int            // the members, parents before children
	empty   int              // records without a row in any table
	refused map[int32]Reject // records of which a table cannot take a row
}

// open makes the rows of all records.
func (g *TableGroup[R]) open(l *Load[R], spans []span, order []int) (*groupLoad[R], error) {
	if l.Encoding != nil && len(l.Rows) > 0 {
		if err := l.Encoding(true); err != nil {
			return nil, err
		}
		defer l.Encoding(false) //nolint:errcheck // nothing follows that could be stopped
	}
	x := &groupLoad[R]{l: l, spans: spans, order: order, refused: map[int32]Reject{}, parents: *g.parents.Load()}
	for _, m := range g.members {
		x.members = append(x.members, m.open(l))
	}
	for i := range x.records() {
		s, rows := x.span(i), 0
		for n := s.lo; n < s.hi; n++ {
			record := x.record(n)
			for _, m := range x.members {
				rows += m.add(record, s.pos)
			}
		}
		if rows == 0 {
			x.empty++
		}
	}
	return x, nil
}

// records is the number of records that the load keeps.
func (x *groupLoad[R]) records() int {
	if x.l.Pos == nil {
		return len(x.l.Rows)
	}
	return len(x.spans)
}

func (x *groupLoad[R]) span(i int) span {
	if x.spans == nil {
		return span{int32(i), i, i + 1}
	}
	return x.spans[i]
}

func (x *groupLoad[R]) record(i int) R {
	if x.order != nil {
		i = x.order[i]
	}
	return x.l.Rows[i]
}

// reject keeps records of which a table cannot take a row out of all tables.
func (x *groupLoad[R]) reject(found []Reject) {
	fresh := map[int32]Reject{}
	for _, r := range found {
		if _, twice := fresh[r.Pos]; twice {
			continue
		}
		r.Key = ""
		for _, i := range x.parents {
			if r.Key = x.members[i].key(r.Pos); r.Key != "" {
				break
			}
		}
		if x.l.Payloads == nil { // the record, in place of the row
			if i, ok := x.find(r.Pos); ok {
				if b, err := json.Marshal(x.record(i)); err == nil {
					r.Payload = b
				}
			}
		}
		fresh[r.Pos] = r
	}
	for _, m := range x.members {
		m.leaveOut(fresh)
	}
	for pos, r := range fresh {
		x.refused[pos] = r
	}
}

// find returns the first row of the load that a record made.
func (x *groupLoad[R]) find(pos int32) (int, bool) {
	if x.spans == nil {
		return int(pos), int(pos) < len(x.l.Rows)
	}
	i, ok := slices.BinarySearchFunc(x.spans, pos, func(s span, pos int32) int { return int(s.pos) - int(pos) })
	if !ok {
		return 0, false
	}
	return x.spans[i].lo, true
}

// counts are those of the group: they are in the registry of the leader.
func (x *groupLoad[R]) counts() counts {
	_, rows := x.members[0].counts()
	return counts{kept: x.records() - x.empty - len(x.refused), dups: x.l.Duplicates, filtered: x.l.Filtered + x.empty,
		rejected: len(x.l.Rejects) + len(x.refused), rows: rows}
}

// countsOf are those of another member. A record that has no row there counts as filtered.
func (x *groupLoad[R]) countsOf(i int) counts {
	if i == 0 {
		return x.counts()
	}
	kept, rows := x.members[i].counts()
	return counts{kept: kept, filtered: x.l.Batch.Records - kept, rows: rows}
}

// stagesOf is what the chain's stages dropped. It is in the registry of the leader.
func (x *groupLoad[R]) stagesOf(i int) string {
	if i > 0 {
		return ""
	}
	return stagesText(x.l.Stages)
}

// Stage writes a batch into the staging tables of all members, in one transaction. Load.Rows are
// the records; the functions of [Into] make the rows of them. A record without a row in any table
// counts as filtered. If one table cannot take a row of a record, the record is rejected in all.
//
// It is otherwise as [Table.Stage]. A call takes two round trips, and two more for the COPY into
// each table that gets rows.
func (g *TableGroup[R]) Stage(ctx context.Context, l Load[R]) (Outcome, error) {
	if err := g.Check(ctx); err != nil {
		return 0, err
	}
	spans, order := l.records()
	if err := l.check(spans); err != nil {
		return 0, err
	}
	x, err := g.open(&l, spans, order)
	if err != nil {
		return 0, err
	}
	how := g.cutOffs.manner(ctx, l.Batch.ID)
	for try := 0; ; try++ {
		var out Outcome
		var found []Reject
		err := retryIdle(ctx, g.views[0].pool, func() (err error) {
			out, found, err = g.stageOnce(ctx, x, try, how)
			return err
		})
		if len(found) == 0 {
			g.cutOffs.learn(ctx, l.Batch.ID, err)
		}
		switch {
		case err == nil && len(found) > 0: // the tables begin again without these records
			x.reject(found)
			try--
			continue
		case err == nil:
			return out, nil
		case try >= 5 || ctx.Err() != nil:
		case errors.Is(err, errRetry): // the open side was the other one
			continue
		case !how.careful && isData(err):
			how.careful = true
			continue
		case sqlState(err) == deadlockDetected || sqlState(err) == serializationFailure:
			continue
		case errors.Is(err, ErrUnknown) && !errors.Is(err, ErrNotDurable) && try == 0:
			continue // the registries or the ledger know how the commit ended
		}
		if errors.Is(err, ErrTooOld) || errors.Is(err, ErrConfig) || errors.Is(err, ErrLoad) || errors.Is(err, ErrDrift) {
			return 0, err
		}
		doing := "staging batch " + l.Batch.ID
		return 0, g.explain(doing, err)
	}
}

// stageOnce is one try to stage. It returns the records of which a table cannot take a row; then
// nothing is staged.
func (g *TableGroup[R]) stageOnce(ctx context.Context, x *groupLoad[R], try int, how copyHow) (Outcome, []Reject, error) {
	c, err := pgschema.Acquire(ctx, g.views[0].pool)
	if err != nil {
		return 0, nil, err
	}
	defer c.Release()
	q := c.Conn()
	if try > 0 {
		r, err := g.lead().inOwn(ctx, q, reads, g.views[0].sql.readControl.with(nil))
		if err != nil {
			return 0, nil, err
		}
		open, err := g.lead().openSides(r)
		if err != nil {
			return 0, nil, err
		}
		g.hint.Store(int32(sideOf(open, 0)))
	}
	defer g.lead().rollback(q)
	s := side(g.hint.Load())
	numbers, out, err := g.register(ctx, q, s, x, try == 0)
	if err == nil && out != OutcomeStaged {
		err = g.lead().confirmOutcome(ctx, q, out)
	}
	if err != nil || out != OutcomeStaged {
		return out, nil, err
	}
	if err := g.at("before copy"); err != nil {
		return 0, nil, err
	}
	var found []Reject
	for i, m := range x.members {
		more, err := m.copyTo(ctx, q, s, numbers[i], how)
		if err != nil {
			return 0, nil, err
		}
		found = append(found, more...)
		if err := g.at("between copies"); err != nil {
			return 0, nil, err
		}
	}
	if len(found) > 0 {
		return 0, found, nil
	}
	rejects := slices.Clone(x.l.Rejects)
	for _, r := range x.refused {
		rejects = append(rejects, r)
	}
	if len(rejects) > 0 {
		if err := g.lead().copyRejects(ctx, q, s, numbers[0], rejects); err != nil {
			return 0, nil, err
		}
	}
	if err := g.at("before commit"); err != nil {
		return 0, nil, err
	}
	if err := g.lead().commit(ctx, q, ""); err != nil {
		return 0, nil, err
	}
	return OutcomeStaged, nil, g.at("after commit")
}

// register begins the transaction, and enters the batch into the registries of all members. It
// returns the batch's number in each. Tables are locked, and batches entered, in one order for all
// programs.
func (g *TableGroup[R]) register(ctx context.Context, q *pgx.Conn, s side, x *groupLoad[R], nowait bool) ([]int32, Outcome, error) {
	b := &x.l.Batch
	var own []string
	for _, i := range g.byName {
		own = append(own, g.views[i].names.registry[s], g.views[i].names.staging[s])
	}
	lock := do("LOCK TABLE " + strings.Join(own, ", ") + " IN ROW EXCLUSIVE MODE")
	look := func(run []call) []call {
		for _, v := range g.views {
			run = append(run, v.sql.side[s].stageLook.with(args{"id": b.ID, "sealed": timeText(b.Sealed)}))
		}
		return run
	}
	run := append(g.lead().beginning(writes), untilDeadline(ctx))
	if nowait {
		// The first try does not wait. A locked side is the one that a promoter works on: the hint is
		// old.
		lock.sql += " NOWAIT"
	} else {
		run = look(run) // what is promoted need not wait for the lock
	}
	run = append(run, lock)
	locked := len(run)
	run = look(run)
	registered := len(run)
	for _, i := range g.byName {
		run = append(run, g.views[i].sql.side[s].stageRegister.with(b.entry(x.countsOf(i), g.list, x.stagesOf(i))))
	}
	res, err := send(ctx, q, run...)
	if !nowait && err != nil && len(res) == locked-1 {
		// The lock was not granted, but the ledgers have been read.
		if out, ferr := g.found(b, res[locked-1-len(g.views):]); ferr != nil || out != OutcomeStaged {
			return nil, out, ferr
		}
	}
	if err != nil {
		if nowait && len(res) < locked && sqlState(err) == lockNotAvailable {
			return nil, 0, errRetry
		}
		return nil, 0, err
	}
	looked := res[locked:registered]
	open, err := g.lead().openSides(looked[0])
	if err != nil {
		return nil, 0, err
	}
	g.hint.Store(int32(sideOf(open, 0)))
	if out, err := g.found(b, looked); err != nil || out != OutcomeStaged {
		return nil, out, err
	}
	numbers := make([]int32, len(g.tables))
	for n, i := range g.byName {
		r := res[registered+n]
		if len(r.Rows) == 0 { // it is in the registry, or in the ledger since a moment ago
			return nil, OutcomeAlreadyStaged, g.stagedHere(ctx, q, s, i, b)
		}
		numbers[i] = int32(r.row(0).int("no"))
	}
	for i, t := range g.tables {
		if err := t.checkStage(ctx, q, s, looked[i].row(0).text("digest")); err != nil {
			return nil, 0, err
		}
	}
	return numbers, OutcomeStaged, nil
}

// found judges what the ledgers hold of a batch. OutcomeStaged: nothing.
func (g *TableGroup[R]) found(b *Batch, looked []result) (Outcome, error) {
	of := make([]ledgerEntry, len(looked))
	tooOld := false
	for i, r := range looked {
		row, err := g.tables[i].controlRow(r)
		if err != nil {
			return 0, err
		}
		of[i] = entryOf(row)
		tooOld = tooOld || row.bool("too_old") // its ledger may have lost the entry
	}
	f, err := g.settled(b.ID, of)
	switch {
	case err != nil:
		return 0, err
	case f == FateVoid:
		return OutcomeAlreadyVoid, nil
	case f == FatePromoted:
		return OutcomeAlreadyPromoted, nil
	case tooOld:
		return 0, fmt.Errorf("%w: batch %s was sealed at %v", ErrTooOld, b.ID, b.Sealed)
	}
	return OutcomeStaged, nil
}
