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
		if _, err := one(ctx, p.q, p.t.sql.refuse[p.s], array(p.numbers())); err != nil {
			return err
		}
	}
	if len(p.t.rules) == 0 || p.expect == 0 {
		return nil
	}
	r, err := one(ctx, p.q, where(p.t.sql.rules[p.s], p.which()), strconv.FormatBool(p.multi))
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

// prepareRules makes the statement that takes rejected rows out of the side and puts them into the rejects table. It
// deletes them, so that the verdict is given once, even if a rule looks at tables that change meanwhile. A record of
// several rows is rejected as a whole only if none of its rows is left.
func (t *Table[T]) prepareRules(s side) {
	if len(t.rules) == 0 {
		return
	}
	var which, code, reason strings.Builder
	which.WriteString("CASE")
	for i, r := range t.rules {
		n := strconv.Itoa(i)
		which.WriteString(" WHEN (" + r.Where + ") THEN " + n)
		code.WriteString(" WHEN " + n + " THEN " + literal(r.Code))
		reason.WriteString(" WHEN " + n + " THEN " + literal(r.Reason))
	}
	which.WriteString(" END")
	t.sql.rules[s] = `WITH judged AS MATERIALIZED (
			SELECT s.ctid AS hr_tid, j.hr_verdict FROM ` + t.staging[s] + ` s CROSS JOIN LATERAL (SELECT ` + which.String() + ` AS hr_verdict OFFSET 0) j WHERE j.hr_verdict IS NOT NULL AND ` + these + `
		), bad AS (
			DELETE FROM ` + t.staging[s] + ` s USING judged j WHERE s.ctid = j.hr_tid RETURNING s.*, j.hr_verdict
		), badly AS (
			SELECT ` + batchOf("b.") + ` AS no, ` + posOf("b.") + ` AS pos, count(*) AS n FROM bad b GROUP BY 1, 2
		), every AS ( -- the statement's snapshot still has the deleted rows
			SELECT ` + batchOf("x.") + ` AS no, ` + posOf("x.") + ` AS pos, count(*) AS n FROM ` + t.staging[s] + ` x
			WHERE $1::bool AND (` + batchOf("x.") + `, ` + posOf("x.") + `) IN (SELECT no, pos FROM badly) GROUP BY 1, 2
		), whole AS (
			SELECT w.no, w.pos, NOT $1::bool OR w.n = e.n AS whole FROM badly w LEFT JOIN every e ON e.no = w.no AND e.pos = w.pos
		), kept AS (
			INSERT INTO ` + t.rejects + ` (batch, root, place, pos, whole, source, key, code, reason, row)
			SELECT r.id, r.root, r.root_offset + ` + posOf("s.") + `, ` + posOf("s.") + `, w.whole, 'rule', ` + t.idSQL("s.") + `,
				CASE s.hr_verdict` + code.String() + ` END, CASE s.hr_verdict` + reason.String() + ` END, ` + t.rowSQL() + `
			FROM bad s JOIN ` + t.registry[s] + ` r ON r.no = ` + batchOf("s.") + ` JOIN whole w ON w.no = ` + batchOf("s.") + ` AND w.pos = ` + posOf("s.") + `
		)
		SELECT ` + batchOf("") + `, count(*) FROM bad GROUP BY 1`
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
		if err := plan("SELECT FROM " + t.target + " s WHERE " + r.Where); err != nil {
			return t.explain(fmt.Sprintf("rule %q (%s)", r.Code, r.Where), err)
		}
	}
	if t.cfg.ReplaceIf != "" {
		if err := plan(t.sql.replace); err != nil {
			return t.explain(fmt.Sprintf("Config.ReplaceIf (%s)", t.cfg.ReplaceIf), err)
		}
	}
	cols := list("", t.colNames)
	if err := plan(t.merged("INSERT INTO " + t.target + " (" + cols + ") SELECT " + cols + " FROM " + t.target)); err != nil {
		return t.explain("planning the insert into "+t.target+" with its merges", err)
	}
	return nil
}
