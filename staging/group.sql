-- name: group_parents
-- The foreign keys between the tables of a group, by their places in the list.
WITH t AS (SELECT w.i, w.name::regclass::oid AS oid FROM unnest(@targets::text::text[]) WITH ORDINALITY w (name, i))
SELECT DISTINCT child.i::int8 AS child, parent.i::int8 AS parent
FROM pg_constraint c
JOIN t child ON child.oid = c.conrelid
JOIN t parent ON parent.oid = c.confrelid
WHERE c.contype = 'f' AND c.conrelid <> c.confrelid;

-- name: group_registered
-- The batches of a group that one of its tables has staged.
SELECT id::text AS id FROM {registry_a} WHERE id = ANY(@ids::text[]::uuid[]) AND starts_with(tables, @leader::text)
UNION ALL
SELECT id::text FROM {registry_b} WHERE id = ANY(@ids::text[]::uuid[]) AND starts_with(tables, @leader::text);

-- name: group_follow
-- Opens the side that is open in the leader of the group.
UPDATE {control} SET open = overlay(open PLACING @to::text FROM 1 FOR 1) WHERE left(open, 1) <> @to::text;

-- name: registered_as
SELECT tables FROM {registry} WHERE id = @id::text::uuid;

-- name: rejected_records
-- The records of a promotion of which a row was rejected, each with its first reject.
SELECT DISTINCT ON (batch, pos) batch::text AS batch, pos, source, code, reason
FROM {rejects}
WHERE batch = ANY(@batches::text[]::uuid[]) AND source <> 'stage'
ORDER BY batch, pos, id;

-- name: left_of_records
-- Which of some records have rows left in the side.
SELECT DISTINCT b.i::int8 AS i
FROM unnest(@numbers::int4[], @positions::int4[]) WITH ORDINALITY b (no, pos, i)
JOIN {staging} s ON {batch_no} = b.no AND {position} = b.pos;

-- name: reject_records
-- Rejects what is left of records.
WITH bad AS (
    DELETE FROM {staging} s
    USING unnest(@numbers::int4[], @positions::int4[], @sources::text[], @codes::text[], @reasons::text[])
          b (hr__no, hr__pos, hr__source, hr__code, hr__reason)
    WHERE {batch_no} = b.hr__no AND {position} = b.hr__pos
    RETURNING s.*, b.hr__source, b.hr__code, b.hr__reason
), moved AS (
    INSERT INTO {rejects} (batch, root, place, pos, whole, source, key, code, reason, row, tables)
    SELECT r.id, r.root, r.root_offset + {position}, {position}, true, s.hr__source, {record_id}, s.hr__code, s.hr__reason, {row_json}, r.tables
    FROM bad s JOIN {registry} r ON r.no = {batch_no}
)
SELECT count(*) AS n FROM bad;

-- name: rejects_whole
-- A record of a group is rejected in every table.
UPDATE {rejects} SET whole = true WHERE batch = ANY(@batches::text[]::uuid[]) AND NOT whole;

-- name: rejects_places
-- The records that some rejects belong to.
SELECT id, batch::text AS batch, pos, tables FROM {rejects} WHERE id = ANY(@ids::text::int8[]);

-- name: existing_tables
-- Those of some tables that are there.
SELECT name FROM unnest(@names::text::text[]) n(name) WHERE to_regclass(name) IS NOT NULL;

-- name: resolve_places
WITH resolved AS (
    UPDATE {rejects} SET resolved_at = clock_timestamp()
    WHERE resolved_at IS NULL AND (batch, pos) IN (SELECT * FROM unnest(@batches::text[]::uuid[], @positions::int4[]))
    RETURNING code, batch, pos
), counted AS (
    INSERT INTO {reject_counts} (code, open, resolved)
    SELECT code, -count(*), count(*) FROM resolved GROUP BY code
)
SELECT batch::text AS batch, pos FROM resolved;
