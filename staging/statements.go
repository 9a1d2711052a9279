package staging

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// statements are the SQL texts of one table, made once. Parameters are cast from text where pgx's modes without
// prepared statements would otherwise guess.
type statements struct {
	open        string
	lockStage   [2]string
	look        string
	register    [2]string
	copyRows    [2]string
	copyRejects [2]string
	recount     [2]string

	full       string
	flip       string
	lockSide   [2]string
	shape      [2]string
	batches    [2]string
	counts     [2]string
	refusals   [2]string
	ledger     [2]string
	kinds      string
	old        string
	unledger   string
	rules      [2]string // where(…, which rows)
	refuse     [2]string
	insert     [2]string // where(…, which rows), for all at once
	insertBit  [2]string // $1 batch number, $2 and $3 positions; ON CONFLICT
	rejectBit  [2]string
	bulkBit    string    // insertBit without merges
	conflicts  [2]string // where(…, which rows)
	correct    string
	forget     [2]string
	truncate   [2]string
	aside      [2]string // where(…, which rows)
	void       string
	registries string
	rejected   string
	epoch      string
	setEpoch   string
	books      string
}

// all takes the place of a condition on rows when a promotion takes every row of its side.
const all = "true"

// these stands in a statement where the condition on rows goes. No name can hold it.
const these = "\x00"

func where(sql, cond string) string { return strings.ReplaceAll(sql, these, cond) }

func (t *Table[T]) prepare() {
	q := &t.sql
	cols := list("", t.colNames)
	q.open = "SELECT open FROM " + t.control
	q.look = `SELECT set_config('lock_timeout', coalesce(nullif($2::text, ''), current_setting('lock_timeout')), true),
		set_config('idle_in_transaction_session_timeout', coalesce(nullif($3::text, ''), current_setting('idle_in_transaction_session_timeout')), true),
		c.open, (SELECT kind FROM ` + t.ledger + ` WHERE id = $1::text::uuid), $4::timestamptz < c.floor FROM ` + t.control + ` c`
	for s := range t.staging {
		reg, stg, ref := t.registry[s], t.staging[s], t.refused[s]
		// In the order in which Stage takes them, or the two would deadlock.
		q.lockSide[s] = "LOCK TABLE " + reg + ", " + stg + ", " + ref + " IN ACCESS EXCLUSIVE MODE"
		q.lockStage[s] = "LOCK TABLE " + reg + " IN ROW EXCLUSIVE MODE"
		q.register[s] = `INSERT INTO ` + reg + ` (id, root, root_offset, records, kept, duplicates, filtered, rejected, rows, attempt, worker, sealed_at)
			SELECT $1::text::uuid, $2::text::uuid, $3::int4, $4::int4, $5::int4, $6::int4, $7::int4, $8::int4, $9::int4, $10::int8, $11::text, $12::timestamptz
			WHERE NOT EXISTS (SELECT FROM ` + t.ledger + ` WHERE id = $1::text::uuid) ON CONFLICT DO NOTHING RETURNING no`
		q.copyRows[s] = "COPY " + stg + " (" + cols + ", " + colBatch + ", " + colPos + ") FROM STDIN BINARY"
		q.copyRejects[s] = "COPY " + ref + " (hr_batch, pos, key, code, reason, payload) FROM STDIN BINARY"
		q.recount[s] = "UPDATE " + reg + " SET kept = $2::int4, rows = $3::int4, rejected = rejected + $4::int4 WHERE no = $1::int4"

		q.shape[s] = `SELECT attname::text FROM pg_attribute
			WHERE attrelid = ` + literal(stg) + `::regclass AND attnum > 0 AND NOT attisdropped`
		q.batches[s] = `SELECT no, id::text, rows, rejected, records, kept, duplicates, filtered FROM ` + reg + ` ORDER BY no`
		q.counts[s] = `SELECT hr_batch, count(*) FROM ` + stg + ` GROUP BY 1`
		q.refusals[s] = `SELECT hr_batch, count(*) FROM ` + ref + ` GROUP BY 1`
		q.ledger[s] = `INSERT INTO ` + t.ledger + ` (id, kind, root, root_offset, records, kept, duplicates, filtered, rejected, staged, promoted, attempt, worker, sealed_at, staged_at)
			SELECT id, 'promoted', root, root_offset, records, kept, duplicates, filtered, rejected, rows, rows, attempt, worker, sealed_at, staged_at
			FROM ` + reg + ` WHERE no = ANY($1::int4[]) ORDER BY id ON CONFLICT (id) DO NOTHING RETURNING id::text`
		q.refuse[s] = `INSERT INTO ` + t.rejects + ` (batch, root, place, pos, whole, source, key, code, reason, payload)
			SELECT r.id, r.root, r.root_offset + f.pos, f.pos, true, 'stage', f.key, f.code, f.reason, f.payload
			FROM ` + ref + ` f JOIN ` + reg + ` r ON r.no = f.hr_batch WHERE r.no = ANY($1::int4[]) ORDER BY r.id, f.pos`
		q.forget[s] = "DELETE FROM " + reg + " WHERE no = ANY($1::int4[])"
		q.truncate[s] = "TRUNCATE " + reg + ", " + stg + ", " + ref
		// A temporary table, because an index on the UNLOGGED one would have the trouble that finish describes.
		q.aside[s] = "CREATE TEMPORARY TABLE hr_aside ON COMMIT DROP AS SELECT * FROM " + stg + " s WHERE " + these
		t.prepareInsert(side(s))
		t.prepareRules(side(s))
	}
	q.full = "SELECT open, EXISTS (SELECT FROM " + t.registry[sideA] + "), EXISTS (SELECT FROM " + t.registry[sideB] + ") FROM " + t.control
	q.flip = "UPDATE " + t.control + " SET open = $1::text WHERE open = $2::text"
	q.kinds = "SELECT id::text, kind FROM " + t.ledger + " WHERE id = ANY($1::text[]::uuid[])"
	q.old = "SELECT l.id::text FROM " + t.ledger + " l, " + t.control + " c WHERE l.id = ANY($1::text[]::uuid[]) AND l.sealed_at < c.floor"
	q.unledger = "DELETE FROM " + t.ledger + " WHERE id = ANY($1::text[]::uuid[])"
	q.correct = `UPDATE ` + t.ledger + ` l SET conflicts = u.c, ruled = u.r, promoted = l.staged - u.c - u.r
		FROM unnest($1::text[]::uuid[], $2::int4[], $3::int4[]) u(id, c, r) WHERE l.id = u.id`
	q.void = `INSERT INTO ` + t.ledger + ` (id, kind, root, root_offset, records, attempt, worker, sealed_at)
		VALUES ($1::text::uuid, 'void', $2::text::uuid, $3::int4, $4::int4, $5::int8, $6::text, $7::timestamptz) ON CONFLICT (id) DO NOTHING`
	q.registries = "SELECT id::text FROM " + t.registry[sideA] + " WHERE id = ANY($1::text[]::uuid[]) UNION ALL SELECT id::text FROM " + t.registry[sideB] +
		" WHERE id = ANY($1::text[]::uuid[])"
	q.rejected = `SELECT DISTINCT ON (batch, pos) batch::text, pos, key, code, reason, payload, row::text, root::text, place FROM ` + t.rejects + `
		WHERE batch = ANY($1::text[]::uuid[]) AND whole ORDER BY batch, pos, id`
	q.epoch = "SELECT epoch FROM " + t.epoch
	q.setEpoch = "INSERT INTO " + t.epoch + " DEFAULT VALUES ON CONFLICT DO NOTHING"
	q.books = `SELECT count(*) FILTER (WHERE kind = 'promoted'), count(*) FILTER (WHERE kind = 'void')`
	for _, c := range []string{"records", "kept", "duplicates", "filtered", "rejected", "staged", "promoted", "conflicts", "ruled"} {
		q.books += ", coalesce(sum(" + c + ") FILTER (WHERE kind = 'promoted'), 0)::int8"
	}
	q.books += " FROM " + t.ledger + " WHERE committed_at >= $1::timestamptz"
}

func (t *Table[T]) keyEquals(a, b string) string {
	var eq []string
	for _, k := range t.cfg.Key {
		eq = append(eq, a+quote(k)+" = "+b+quote(k))
	}
	return strings.Join(eq, " AND ")
}

// prepareInsert makes the statements that bring rows into the target. The rows come sorted by key, so that the key's
// index is walked once and in order. Rows that are there already are left out before the insert; the plain insert is the
// fastest, and a conflict with a concurrent writer makes the promotion start again, carefully.
func (t *Table[T]) prepareInsert(s side) {
	q := &t.sql
	cols, from := list("", t.colNames), t.staging[s]
	into := "INSERT INTO " + t.target + " AS hr_target (" + cols + ") "
	newest := "s." + colBatch + ", s." + colPos
	onConflict := ""
	switch {
	case len(t.cfg.Key) == 0:
	case t.cfg.Conflict == Replace:
		newest = "s." + colBatch + " DESC, s." + colPos + " DESC"
		if t.cfg.Newer != "" {
			newest = "s." + quote(t.cfg.Newer) + " DESC NULLS LAST, " + newest
		}
		onConflict = " ON CONFLICT (" + list("", t.cfg.Key) + ") DO "
		var set []string
		for _, c := range t.colNames {
			if !contains(t.cfg.Key, c) {
				set = append(set, quote(c)+" = EXCLUDED."+quote(c))
			}
		}
		if len(set) == 0 {
			onConflict += "NOTHING"
		} else {
			onConflict += "UPDATE SET " + strings.Join(set, ", ")
			if n := quote(t.cfg.Newer); t.cfg.Newer != "" {
				onConflict += " WHERE hr_target." + n + " IS NULL OR EXCLUDED." + n + " > hr_target." + n
			}
		}
	}
	pick := func(where string) string {
		if len(t.cfg.Key) == 0 {
			return "SELECT " + list("s.", t.colNames) + " FROM " + from + " s WHERE " + where
		}
		return "SELECT DISTINCT ON (" + list("s.", t.cfg.Key) + ") " + list("s.", t.colNames) + " FROM " + from + " s WHERE " + where
	}
	order := ""
	if len(t.cfg.Key) > 0 {
		order = " ORDER BY " + list("s.", t.cfg.Key) + ", " + newest
	}
	one := pick(these) + order
	if len(t.cfg.Key) > 0 && t.cfg.Conflict == Skip {
		// Sorted first, then joined: so the look into the target's index goes in its order too. (Joined first, Postgres
		// looks in the order of arrival; on ten million rows that took as long as the insert.)
		one = "SELECT " + list("s.", t.colNames) + " FROM (" + one + " OFFSET 0) s WHERE NOT EXISTS (SELECT FROM " + t.target + " hr_there WHERE " +
			t.keyEquals("hr_there.", "s.") + ") ORDER BY " + list("s.", t.cfg.Key)
	}
	q.insert[s] = t.merged(into + one + onConflict)

	from = "pg_temp.hr_aside"
	bit := pick("s." + colBatch + " = $1::int4 AND s." + colPos + " BETWEEN $2::int4 AND $3::int4")
	if t.cfg.Conflict == Skip {
		onConflict = " ON CONFLICT DO NOTHING" // whatever the index
	}
	q.insertBit[s] = t.merged(into + bit + order + onConflict)
	q.bulkBit = into + bit + order + onConflict

	q.rejectBit[s] = `WITH bad AS (SELECT s.* FROM ` + from + ` s WHERE s.` + colBatch + ` = $1::int4 AND s.` + colPos + ` = $2::int4)
		INSERT INTO ` + t.rejects + ` (batch, root, place, pos, whole, source, key, code, reason, row)
		SELECT r.id, r.root, r.root_offset + s.hr_pos, s.hr_pos, true, 'insert', ` + t.idSQL("s.") + `, $3::text, $4::text, ` + t.rowSQL() + `
		FROM bad s JOIN ` + t.registry[s] + ` r ON r.no = s.hr_batch`

	if len(t.cfg.Key) > 0 {
		// Which rows were not written: all but the first of a key in this promotion, and that one too unless the
		// target's row is this transaction's own.
		q.conflicts[s] = `SELECT hr_batch, count(*) FROM (
				SELECT s.hr_batch, row_number() OVER (PARTITION BY ` + list("s.", t.cfg.Key) + ` ORDER BY ` + newest + `) AS n,
					coalesce(t.xmin::text = (pg_current_xact_id()::text::numeric % 4294967296)::text, false) AS ours
				FROM ` + t.staging[s] + ` s LEFT JOIN ` + t.target + ` t ON ` + t.keyEquals("t.", "s.") + ` WHERE ` + these + `) x
			WHERE n > 1 OR NOT ours GROUP BY 1`
	}
}

func contains(in []string, s string) bool {
	for _, x := range in {
		if x == s {
			return true
		}
	}
	return false
}

// merged puts the user's merges behind the insert. Without any, the insert stays plain: RETURNING costs.
func (t *Table[T]) merged(insert string) string {
	if len(t.cfg.Merge) == 0 {
		return insert
	}
	var b strings.Builder
	b.WriteString("WITH promoted AS (" + insert + " RETURNING *)")
	for _, m := range t.cfg.Merge {
		b.WriteString(", " + quote(m.Name) + " AS (" + m.SQL + ")")
	}
	b.WriteString(" SELECT count(*) FROM promoted")
	return b.String()
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
	return "(SELECT row_to_json(x) FROM (SELECT " + list("s.", t.colNames) + ") x)"
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
			SELECT s.ctid AS tid, v FROM ` + t.staging[s] + ` s CROSS JOIN LATERAL (SELECT ` + which.String() + ` AS v OFFSET 0) j WHERE v IS NOT NULL AND ` + these + `
		), bad AS (
			DELETE FROM ` + t.staging[s] + ` s USING judged j WHERE s.ctid = j.tid RETURNING s.*, j.v AS hr_verdict
		), badly AS (
			SELECT b.hr_batch, b.hr_pos, count(*) AS n FROM bad b GROUP BY 1, 2
		), every AS ( -- the statement's snapshot still has the deleted rows
			SELECT x.hr_batch, x.hr_pos, count(*) AS n FROM ` + t.staging[s] + ` x
			WHERE $1::bool AND (x.hr_batch, x.hr_pos) IN (SELECT hr_batch, hr_pos FROM badly) GROUP BY 1, 2
		), whole AS (
			SELECT w.hr_batch, w.hr_pos, NOT $1::bool OR w.n = e.n AS whole FROM badly w LEFT JOIN every e ON e.hr_batch = w.hr_batch AND e.hr_pos = w.hr_pos
		), kept AS (
			INSERT INTO ` + t.rejects + ` (batch, root, place, pos, whole, source, key, code, reason, row)
			SELECT r.id, r.root, r.root_offset + s.hr_pos, s.hr_pos, w.whole, 'rule', ` + t.idSQL("s.") + `,
				CASE s.hr_verdict` + code.String() + ` END, CASE s.hr_verdict` + reason.String() + ` END, ` + t.rowSQL() + `
			FROM bad s JOIN ` + t.registry[s] + ` r ON r.no = s.hr_batch JOIN whole w ON w.hr_batch = s.hr_batch AND w.hr_pos = s.hr_pos
		)
		SELECT hr_batch, count(*) FROM bad GROUP BY 1`
}

// tryRules lets Postgres plan the rules and the merges, so that a mistake in one is found now and by its name. The target
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
	cols := list("", t.colNames)
	if err := plan(t.merged("INSERT INTO " + t.target + " (" + cols + ") SELECT " + cols + " FROM " + t.target)); err != nil {
		return t.explain("planning the insert into "+t.target+" with its merges", err)
	}
	return nil
}
