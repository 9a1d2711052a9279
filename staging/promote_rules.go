package staging

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// moveRejects brings the records that were rejected before they were staged into the durable table.
func (p *promotion) moveRejects(ctx context.Context) error {
	if len(p.take) == 0 || p.out.Rejected == 0 {
		return nil
	}
	_, err := sendOne(ctx, p.q, p.sql().rejects.with(args{"numbers": array(p.numbers())}))
	return err
}

// applyRules rejects the rows for which a rule of the user is true. A row for which a rule raises
// is rejected with that error. Before that, it rejects the records that are known to end the
// session: a rule may do so.
func (p *promotion) applyRules(ctx context.Context) error {
	if err := p.rejectFatal(ctx); err != nil {
		return err
	}
	if len(p.t.rules) == 0 || p.expect == 0 {
		return nil
	}
	run := func(ctx context.Context, condition string) (int64, error) {
		r, err := sendOne(ctx, p.q, p.sql().rules.where(condition).with(args{"several": strconv.FormatBool(p.multi)}))
		if err != nil {
			return 0, err
		}
		counts, err := countsOf(r)
		var total int64
		for no, n := range counts {
			p.take[no].ruled += n
			total += n
		}
		p.refused += total
		return total, err
	}
	w := &work{source: "rule", run: run, judged: run, plain: run, judge: p.sql().judgeRules, judgeThenRun: true, done: func([]recordSpan, int64) {},
		blame: func(context.Context, string, error) error { return nil }}
	if !p.searches() {
		_, err := p.try(ctx, func() (int64, error) { return run(ctx, p.which()) })
		if err == nil {
			return nil
		}
		if err := p.mayBeData(ctx, w, err); err != nil {
			return err
		}
	}
	batches, err := p.spans(ctx)
	if err != nil {
		return err
	}
	for _, spans := range group(batches, max((p.expect+parts-1)/parts, p.t.sizes.least)) {
		if err := p.descend(ctx, w, spans); err != nil {
			return err
		}
	}
	return p.retryLate(ctx, w)
}

// idSQL is the record's id as text.
func (t *table) idSQL(prefix string) string {
	if t.cfg.ID == "" {
		return "''"
	}
	return "coalesce(" + prefix + quote(t.cfg.ID) + "::text, '')"
}

// rowSQL is the staged row as json, without our own columns.
func (t *table) rowSQL() string {
	return "(SELECT row_to_json(hr__row) FROM (SELECT " + list("s.", t.colNames) + ") hr__row)"
}

// ruleCases are the verdict on a row (the number of the first rule that is true, or NULL), and the
// code and the reason of a verdict.
func (t *table) ruleCases() (verdict, code, reason string) {
	if len(t.rules) == 0 {
		return "NULL", "NULL", "NULL"
	}
	var v, c, r strings.Builder
	for i, rule := range t.rules {
		n := strconv.Itoa(i)
		v.WriteString(" WHEN (" + rule.Where + "\n) THEN " + n)
		c.WriteString(" WHEN " + n + " THEN " + literal(rule.Code))
		r.WriteString(" WHEN " + n + " THEN " + literal(rule.Reason))
	}
	return "CASE" + v.String() + " END", "CASE s.hr__verdict" + c.String() + " END", "CASE s.hr__verdict" + r.String() + " END"
}

// tryRules lets Postgres plan the rules, the condition of a replacement and the merges, so that a
// mistake in one is found now and by its name. The target takes the place of the staging table,
// which may not exist yet, without its partitions, which need not be locked.
func (t *table) tryRules(ctx context.Context, q *pgx.Conn) error {
	plan := func(sql string) error {
		rows, err := q.Query(ctx, "EXPLAIN "+sql, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return err
		}
		rows.Close()
		return rows.Err()
	}
	for _, r := range t.rules {
		if err := plan("SELECT FROM ONLY " + t.target + " s WHERE (" + r.Where + "\n)"); err != nil {
			return t.explainSQL(fmt.Sprintf("Config.Rules, the rule %q (%s)", r.Code, r.Where), err)
		}
	}
	if t.cfg.ReplaceIf != "" {
		if err := plan(t.sql.replaceInto.text); err != nil {
			return t.explainSQL(fmt.Sprintf("Config.ReplaceIf (%s)", t.cfg.ReplaceIf), err)
		}
	}
	if !t.cfg.Create {
		return t.tryMerges(plan)
	}
	// A roll-up needs the target, which this call may have made: what the merges write may follow.
	if _, err := q.Exec(ctx, "SAVEPOINT hr_merges"); err != nil {
		return t.explain("planning the merges", err)
	}
	err := t.tryMerges(plan)
	if sqlState(err) == undefinedTable {
		_, err = q.Exec(ctx, "ROLLBACK TO hr_merges")
	}
	return err
}

func (t *table) tryMerges(plan func(sql string) error) error {
	cols := list("", t.colNames)
	if err := plan(t.merged(statement{text: "INSERT INTO " + t.target + " (" + cols + ") SELECT " + cols + " FROM ONLY " + t.target}).text); err != nil {
		return t.explainSQL("Config.Merges, planning the insert into "+t.target+" with them", err)
	}
	for _, m := range t.cfg.Merges {
		if m.Then == "" {
			continue
		}
		if err := plan(m.Then); err != nil {
			return t.explainSQL(fmt.Sprintf("Config.Merges, planning what follows merge %q", m.Name), err)
		}
	}
	return nil
}
