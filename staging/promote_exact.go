package staging

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// What a promotion keeps and rejects is what row-by-row INSERT … ON CONFLICT accepts and refuses,
// in the order of arrival. Postgres judges a row in this order: triggers before the insert, checks,
// the index of the key, other indexes, foreign keys. A row that meets its key has passed the checks
// and meets no foreign key. Statements that leave rows out before the insert keep this order only
// where nothing but the constraints that make suspects can refuse a row. Elsewhere each row is
// tried.

const lateReason = "the record lacked its parent, and another one has taken its key before the parent came"

// inserts returns the statement that brings rows into the target, with its merges and without them.
func (p *promotion) inserts() (merged, plain statement) {
	s := p.sql()
	if p.exact() {
		return s.exact, s.exactPlain
	}
	return s.insert, s.insertPlain
}

// exact is true if each row meets the index of the key by the conflict policy's own clause.
func (p *promotion) exact() bool { return p.sql().exact.text != "" && p.guarded && !p.children }

// chooseOrder finds out whether rows of one key have to be tried one after the other. DO UPDATE
// replaces no row twice.
func (p *promotion) chooseOrder(ctx context.Context) error {
	t := p.t
	if len(t.cfg.Key) == 0 {
		return nil
	}
	if !p.judges() && len(p.suspects) > 0 { // they are still there
		p.guarded = true
	}
	if t.cfg.Conflict != ConflictReplace {
		return nil
	}
	if !p.guarded && t.mayKeepOld() {
		var orphans []string
		for _, x := range p.suspicions {
			if x.equal != "" {
				orphans = append(orphans, x.condition)
			}
		}
		if len(orphans) > 0 {
			n, err := p.remainder(ctx, p.which()+" AND ("+strings.Join(orphans, "\n OR ")+"\n) AND s.ctid IN "+p.sql().doubled)
			if err != nil {
				return err
			}
			p.guarded = n > 0
		}
	}
	if !p.guarded {
		return nil
	}
	var err error
	p.inOrder, err = p.anyDoubled(ctx, p.which())
	return err
}

// remainder counts the rows of a condition.
func (p *promotion) remainder(ctx context.Context, condition string) (int64, error) {
	r, err := sendOne(ctx, p.q, p.sql().remainder.where(condition).with(nil))
	if err != nil {
		return 0, err
	}
	return r.row(0).int("n"), nil
}

// suspicious lists the conditions of suspect rows. Where a row of the same key may come before, a
// row that lacks its parent may be a conflict, which no foreign key refuses: it is judged in its
// turn.
func (p *promotion) suspicious() (conditions []string) {
	for _, x := range p.suspicions {
		conditions = append(conditions, p.inTurn(x))
	}
	return conditions
}

// orphanConditions lists those of rows that lack their parent.
func (p *promotion) orphanConditions() (conditions []string) {
	for _, x := range p.suspicions {
		if x.equal != "" {
			conditions = append(conditions, p.inTurn(x))
		}
	}
	return conditions
}

func (p *promotion) inTurn(x suspicion) string {
	if x.equal == "" || len(p.t.cfg.Key) == 0 || !p.t.mayKeepOld() {
		return x.condition
	}
	if p.beforeRow { // it may change the key
		return "false"
	}
	return x.condition + " AND s.ctid NOT IN " + p.sql().doubled
}

func (p *promotion) anyDoubled(ctx context.Context, condition string) (bool, error) {
	r, err := sendOne(ctx, p.q, p.sql().anyDoubled.where(condition).with(nil))
	if err != nil {
		return false, err
	}
	return r.row(0).bool("doubled"), nil
}

// descendInOrder does the work on a part in which a key comes twice. It returns false if none does.
func (p *promotion) descendInOrder(ctx context.Context, w *work, spans []recordSpan) (bool, error) {
	if !p.inOrder || w.source != "insert" {
		return false, nil
	}
	whole := hull(spans)
	if doubled, err := p.anyDoubled(ctx, p.of(whole)); !doubled || err != nil {
		return false, err
	}
	if p.judges() {
		judged, err := p.judgeRows(ctx, w, whole.condition(), spans)
		if judged || err != nil {
			return true, err
		}
	}
	if whole.single() {
		return true, p.insertEach(ctx, w, whole)
	}
	for _, part := range split(spans) {
		if err := p.descend(ctx, w, part); err != nil {
			return true, err
		}
	}
	return true, nil
}

// checkAgain runs an insert of records. Where they are tried again because they lacked their
// parents, another record may have taken the key of one: it is refused for its parent, as in its
// turn.
func (p *promotion) checkAgain(ctx context.Context, condition string, run func() (int64, error)) (int64, error) {
	if !p.refusesLate() || p.each {
		return run()
	}
	rows, err := p.remainder(ctx, condition)
	if err != nil {
		return 0, err
	}
	n, err := run()
	if err == nil && n < rows {
		err = errLate
	}
	return n, err
}

var errLate error = &pgconn.PgError{Code: "23503", Message: lateReason}

// refusesLate is true if records are tried again and those whose key was taken are refused.
func (p *promotion) refusesLate() bool {
	return p.again && len(p.t.cfg.Key) > 0 && p.t.mayKeepOld()
}

// rejectTaken does so before such records are tried again, where they would replace the other one.
// It returns the records that are left.
func (p *promotion) rejectTaken(ctx context.Context, records []int64) ([]int64, error) {
	if len(p.t.cfg.Key) == 0 || p.t.cfg.Conflict != ConflictReplace {
		return records, nil
	}
	r, err := sendOne(ctx, p.q, p.sql().takenRecords.where("s."+colRecord+" = ANY('"+array(records)+"'::int8[])").with(nil))
	if err != nil {
		return nil, err
	}
	for row := range r.each() {
		record := row.int("record")
		n, err := p.rejectRows(ctx, "s."+colRecord+" = "+text(record), rejection{record, true, "insert", codeSQL + "23503", lateReason})
		if err != nil {
			return nil, err
		}
		p.refused += n
		records = slices.DeleteFunc(records, func(x int64) bool { return x == record })
	}
	return records, nil
}

// clashes takes in a record whose key was there.
func (p *promotion) clashes(record int64) {
	if !p.clashed || record < p.clash {
		p.clash, p.clashed = record, true
	}
}

// mayHaveDropped is true if a trigger may have dropped some of the rows that were not written. A
// row that it drops before a later one brings the key is not a conflict with that one.
func (p *promotion) mayHaveDropped(ctx context.Context) (bool, error) {
	if p.t.cfg.Conflict == ConflictFail && len(p.t.cfg.Key) > 0 {
		return true, nil // or a row has met its key: which one, must be known
	}
	absent, err := p.anyAbsent(ctx, p.which())
	switch {
	case err != nil:
		return false, err
	case absent:
		p.t.drops.Store(lookFor)
		return true, nil
	case len(p.t.cfg.Key) == 0:
		return false, nil
	case p.t.cfg.Conflict == ConflictReplace:
		return p.inOrder, nil
	}
	r, err := sendOne(ctx, p.q, p.sql().doubledOurs.where(p.which()).with(nil))
	if err != nil {
		return false, err
	}
	return r.row(0).bool("doubled"), nil
}

// changedKeys is true if a trigger has changed the keys of rows: then their batches cannot be told
// by their keys.
func (p *promotion) changedKeys(ctx context.Context) (bool, error) {
	if !p.beforeRow || p.byBatch {
		return false, nil
	}
	r, err := sendOne(ctx, p.q, p.sql().keyMissing.where(p.which()).with(nil))
	if err != nil {
		return false, err
	}
	return r.row(0).bool("missing"), nil
}
