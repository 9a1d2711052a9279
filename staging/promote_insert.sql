-- name: insert_all_plain
INSERT INTO {target} AS old ({columns})
SELECT {s_columns} FROM {staging} s WHERE {which}

-- name: insert_new
-- Each key once, in the order of the key, so that the key's index is walked once. The keys are not
-- looked up.
INSERT INTO {target} AS old ({columns})
SELECT DISTINCT ON ({s_key}) {s_columns} FROM {staging} s
WHERE {which}
ORDER BY {s_key}, {newest}

-- name: insert_all_skip
-- Sorted first, then looked up: so the look into the target's index goes in its order too. (Looked
-- up first, Postgres looks in the order of arrival. On ten million rows that took as long as the
-- insert.) OFFSET 0 keeps the look-up from becoming a join, which could read the whole target.
INSERT INTO {target} AS old ({columns})
SELECT {s_columns}
FROM (
    SELECT DISTINCT ON ({s_key}) {s_columns} FROM {staging} s
    WHERE {which}
    ORDER BY {s_key}, {newest}
    OFFSET 0
) s
WHERE NOT EXISTS (SELECT FROM {target} hr_there WHERE {key_in_target} OFFSET 0)
ORDER BY {s_key}

-- name: rows_near
-- Counts rows of the target between two keys, up to a limit.
SELECT count(*) AS n FROM (SELECT FROM {target} hr_there WHERE {between} ORDER BY {lead} LIMIT {limit}) hr_near

-- name: insert_exact
-- As row-by-row INSERT does: each row, in the order of arrival, passes the triggers and the checks,
-- and then meets the index of the key. DO UPDATE fails where a key comes twice.
INSERT INTO {target} AS old ({columns})
SELECT {s_columns} FROM {staging} s
WHERE {which}
ORDER BY s.{record}
{exact_conflict}

-- name: insert_all_fail
INSERT INTO {target} AS old ({columns})
SELECT DISTINCT ON ({s_key}) {s_columns} FROM {staging} s
WHERE {which}
ORDER BY {s_key}, {newest}

-- name: insert_all_replace
INSERT INTO {target} AS old ({columns})
SELECT DISTINCT ON ({s_key}) {s_columns} FROM {staging} s
WHERE {which}
ORDER BY {s_key}, {newest}
{on_conflict}

-- name: insert_array_plain
INSERT INTO {target} AS old ({columns})
SELECT {s_columns} FROM {array} s

-- name: insert_array_keyed
INSERT INTO {target} AS old ({columns})
SELECT DISTINCT ON ({s_key}) {s_columns} FROM {array} s
ORDER BY {s_key}, {newest}
{on_conflict}

-- name: array
-- Rows that a parameter brings.
unnest(@rows::{staging_a}[])

-- name: broken_rules
-- How many rows of a parameter each rule rejects.
SELECT {rule_code} AS code, {rule_reason} AS reason, count(*) AS n
FROM (SELECT {rule_verdict} AS hr__verdict FROM {array} s) s
WHERE s.hr__verdict IS NOT NULL
GROUP BY 1, 2
ORDER BY 1

-- name: row_type
-- The row type of the staging table of side a, and its columns.
SELECT c.reltype::int8 AS row_type, a.attname::text AS name, a.atttypid::int8 AS type
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.oid = {staging_a_text}::regclass AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

-- name: replace_into
INSERT INTO {target} AS old ({columns})
SELECT {columns} FROM ONLY {target}
{on_conflict}

-- name: key_there
-- Tells whether the target has the key of one of the rows.
SELECT EXISTS (SELECT FROM {staging} s JOIN {target} hr_there ON {key_in_target} WHERE {which}) AS there

-- name: taken_records
-- The records with a row whose key this transaction has written.
SELECT DISTINCT s.{record} AS record
FROM {staging} s
WHERE {which} AND EXISTS (SELECT FROM {target} hr_there WHERE {key_in_target} AND {ours} OFFSET 0)

-- name: key_missing
-- Tells whether the target lacks the key of one of the rows.
SELECT EXISTS (SELECT FROM {staging} s WHERE {which} AND NOT EXISTS (SELECT FROM {target} hr_there WHERE {key_in_target} OFFSET 0)) AS missing

-- name: ours
-- Whether the target's row is this transaction's own. A row's xmin may be a subtransaction's. Ids
-- of subtransactions follow the transaction's, and a visible row whose writer is still in progress
-- is ours.
CASE WHEN hr_there.xmin IS NULL OR age(hr_there.xmin) > age(pg_current_xact_id()::xid) THEN false
     ELSE pg_xact_status((pg_current_xact_id()::text::numeric + age(pg_current_xact_id()::xid)::numeric - age(hr_there.xmin)::numeric)::text::xid8)
          = 'in progress'
END

-- name: first_conflict
-- The first record, in the order of arrival, whose key the target has, or an earlier row.
SELECT r.id::text AS batch, r.root::text AS root, r.root_offset + x.pos AS place, x.pos, x.key
FROM (
    SELECT s.{record} AS record, {batch_no} AS no, {position} AS pos,
           (SELECT row_to_json(hr__row)::text FROM (SELECT {s_key}) hr__row) AS key,
           row_number() OVER (PARTITION BY {s_key} ORDER BY {newest}) AS n,
           {ours} AS ours
    FROM {staging} s
    LEFT JOIN LATERAL (SELECT hr_there.xmin FROM {target} hr_there WHERE {key_in_target} OFFSET 0) hr_there ON true
    WHERE {which}
) x
JOIN {registry} r ON r.no = x.no
WHERE n > 1 OR NOT ours
ORDER BY x.record
LIMIT 1

-- name: conflict_at
-- The record whose key was there.
SELECT r.id::text AS batch, r.root::text AS root, r.root_offset + {position} AS place, {position} AS pos,
       (SELECT row_to_json(hr__row)::text FROM (SELECT {s_key}) hr__row) AS key
FROM {staging} s JOIN {registry} r ON r.no = {batch_no}
WHERE s.{record} = @record::int8
LIMIT 1

-- name: any_doubled
-- Whether a key comes twice.
SELECT EXISTS (SELECT FROM {staging} s WHERE {which} GROUP BY {s_key} HAVING count(*) > 1) AS doubled

-- name: any_doubled_ours
-- Whether a key comes twice that the target did not have before.
SELECT EXISTS (
    SELECT FROM (SELECT {s_key} FROM {staging} s WHERE {which} GROUP BY {s_key} HAVING count(*) > 1) s
    WHERE EXISTS (SELECT FROM {target} hr_there WHERE {key_in_target} AND {ours} OFFSET 0)
) AS doubled

-- name: doubled
-- The places of rows whose key comes twice.
(SELECT d.place FROM (SELECT s.ctid AS place, count(*) OVER (PARTITION BY {s_key}) AS n FROM {staging} s) d WHERE d.n > 1)

-- name: conflicts
-- Counts, by batch, the rows that were not written: all but one of a key in this promotion, and
-- that one too unless the target's row is this transaction's own.
SELECT no, count(*) AS n
FROM (
    SELECT {batch_no} AS no,
           row_number() OVER (PARTITION BY {s_key} ORDER BY {newest}) AS n,
           {ours} AS ours
    FROM {staging} s
    LEFT JOIN LATERAL (SELECT hr_there.xmin FROM {target} hr_there WHERE {key_in_target} OFFSET 0) hr_there ON true
    WHERE {which}
) x
WHERE n > 1 OR NOT ours
GROUP BY 1

-- name: replaced
-- What the rows of the target were before the insert replaced them: a part of a statement reads the
-- snapshot from before the statement. LATERAL with OFFSET 0 looks each key up in the index. A join
-- could read the whole target.
SELECT {replaced_columns}
FROM promoted p CROSS JOIN LATERAL (SELECT {old_columns} FROM {target} hr_old WHERE {key_promoted} OFFSET 0) o
