package staging

import "strings"

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
	insertNew  [2]string // where(…, which rows that are not there)
	triggers   string    // whether the target or a partition has one that runs before the insert of a row
	replace    string    // the target into itself, to be planned
	insertBit  [2]string // $1 to $2 of hr_record; ON CONFLICT
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
		q.copyRows[s] = "COPY " + stg + " (" + cols + ", " + colRecord + ") FROM STDIN BINARY"
		q.copyRejects[s] = "COPY " + ref + " (hr_batch, pos, key, code, reason, payload) FROM STDIN BINARY"
		q.recount[s] = "UPDATE " + reg + " SET kept = $2::int4, rows = $3::int4, rejected = rejected + $4::int4 WHERE no = $1::int4"

		q.shape[s] = `SELECT attname::text FROM pg_attribute
			WHERE attrelid = ` + literal(stg) + `::regclass AND attnum > 0 AND NOT attisdropped`
		q.batches[s] = `SELECT no, id::text, rows, rejected, records, kept, duplicates, filtered FROM ` + reg + ` ORDER BY no`
		q.counts[s] = `SELECT ` + batchOf("") + `, count(*)` + t.spread() + ` FROM ` + stg + ` GROUP BY 1`
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
	q.triggers = `SELECT EXISTS (SELECT FROM pg_trigger WHERE tgtype & 7 = 7 AND tgenabled <> 'D' AND NOT tgisinternal AND tgrelid IN
		(SELECT ` + literal(t.target) + `::regclass::oid UNION ALL SELECT relid::oid FROM pg_partition_tree(` + literal(t.target) + `::regclass)))`
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
