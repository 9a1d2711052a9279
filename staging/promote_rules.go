package staging

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// reject applies the rules and brings the records that were refused before staging into the durable table.
func (p *promotion[T]) reject(ctx context.Context) error {
	if len(p.take) == 0 {
		return nil
	}
	if p.out.Rejected > 0 {
		if _, err := sendOne(ctx, p.q, p.t.sql.side[p.s].rejects.with(args{"numbers": array(p.numbers())})); err != nil {
			return err
		}
	}
	if len(p.t.rules) == 0 || p.expect == 0 {
		return nil
	}
	r, err := sendOne(ctx, p.q, p.t.sql.side[p.s].rules.where(p.which()).with(args{"several": strconv.FormatBool(p.multi)}))
	if err != nil {
		return err
	}
	ruled, err := countsOf(r)
	for no, n := range ruled {
		p.take[no].ruled = n
		p.out.RejectedByRule += int(n)
		p.expect -= n
	}
	return err
}

// idSQL is the record's id as text.
func (t *Table[T]) idSQL(prefix string) string {
	if t.cfg.ID == "" {
		return "''"
	}
	return "coalesce(" + prefix + quote(t.cfg.ID) + "::text, '')"
}

// rowSQL is the staged row as json, without our own columns.
func (t *Table[T]) rowSQL() string {
	return "(SELECT row_to_json(hr_row) FROM (SELECT " + list("s.", t.colNames) + ") hr_row)"
}

// ruleCases are the verdict on a row (the number of the first rule that is true, or NULL), and the code and the reason of
// a verdict.
func (t *Table[T]) ruleCases() (verdict, code, reason string) {
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
	return "CASE" + v.String() + " END", "CASE s.hr_verdict" + c.String() + " END", "CASE s.hr_verdict" + r.String() + " END"
}

// tryRules lets Postgres plan the rules, the condition of a replacement and the merges, so that a mistake in one is found now and by its name. The target
// stands in for the staging table, which may not exist yet.
func (t *Table[T]) tryRules(ctx context.Context, q *pgx.Conn) error {
	plan := func(sql string) error {
		rows, err := q.Query(ctx, "EXPLAIN "+sql, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return err
		}
		rows.Close()
		return rows.Err()
	}
	for _, r := range t.rules {
		if err := plan("SELECT FROM " + t.target + " s WHERE (" + r.Where + "\n)"); err != nil {
			return t.explain(fmt.Sprintf("rule %q (%s)", r.Code, r.Where), err)
		}
	}
	if t.cfg.ReplaceIf != "" {
		if err := plan(t.sql.replaceInto.text); err != nil {
			return t.explain(fmt.Sprintf("Config.ReplaceIf (%s)", t.cfg.ReplaceIf), err)
		}
	}
	cols := list("", t.colNames)
	if err := plan(t.merged(statement{text: "INSERT INTO " + t.target + " (" + cols + ") SELECT " + cols + " FROM " + t.target}).text); err != nil {
		return t.explain("planning the insert into "+t.target+" with its merges", err)
	}
	return nil
}
