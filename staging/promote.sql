-- name: full_sides
-- A promotion takes the batches of its own kind: those of this table alone (an empty leader), or
-- those of the group that the table leads.
SELECT open,
       EXISTS (SELECT FROM {registry_a} WHERE starts_with(tables, @leader::text) AND (tables = '') = (@leader::text = '')) AS full_a,
       EXISTS (SELECT FROM {registry_b} WHERE starts_with(tables, @leader::text) AND (tables = '') = (@leader::text = '')) AS full_b,
       failures > 0 AND failed_lane = {lane} AS failing
FROM {control};

-- name: share_lane
-- Fails at once where a promoter is at work in the lane.
LOCK TABLE {registry_a}, {registry_b} IN ACCESS SHARE MODE NOWAIT;

-- name: turn
-- Promotions of several lanes write into the target at the same time as long as all wait for each
-- other in one order.
SELECT pg_advisory_xact_lock_shared(hashtext('headrace.staging.turn'), {target_text}::regclass::oid::int8::bit(32)::int4);

-- name: turn_alone
-- A promotion that writes in another order does so while none of the others writes.
SELECT pg_advisory_xact_lock(hashtext('headrace.staging.turn'), {target_text}::regclass::oid::int8::bit(32)::int4);

-- name: note_failure
-- The lane that failed first keeps the failure: a success of another one does not end it.
UPDATE {control}
SET failed_since = coalesce(failed_since, clock_timestamp()), failures = failures + 1, failure = @failure::text,
    failed_lane = CASE WHEN failures = 0 THEN {lane} ELSE failed_lane END;

-- name: note_success
-- The failure of another lane goes on.
UPDATE {control} SET failed_since = NULL, failures = 0, failure = NULL WHERE failures > 0 AND failed_lane = {lane};

-- name: failures
SELECT (extract(epoch FROM failed_since) * 1000000::numeric)::int8 AS failing_since, failures, coalesce(failure, '') AS failure, open FROM {control};

-- name: staged
-- What waits for promotion on one side. With a leader: of its group. Foreign batches are those that
-- a promotion of this kind leaves.
SELECT count(*) FILTER (WHERE counted) AS batches, coalesce(sum(records) FILTER (WHERE counted), 0)::int8 AS records,
       coalesce(sum(rows) FILTER (WHERE counted), 0)::int8 AS rows, (extract(epoch FROM min(sealed_at) FILTER (WHERE counted)) * 1000000::numeric)::int8 AS oldest,
       count(*) FILTER (WHERE NOT (counted AND (tables = '') = (@leader::text = ''))) AS foreign_batches
FROM (SELECT *, starts_with(tables, @leader::text) AS counted FROM {registry}) r;

-- name: flip
-- A retired lane has no open side. A batch that comes late into a side that is promoted is found
-- next time.
UPDATE {control} SET open = overlay(open PLACING @to::text FROM {lane} FOR 1) WHERE substr(open, {lane}, 1) = @from::text;

-- name: lock_side
-- In the order in which Stage takes the tables, or the two would deadlock.
LOCK TABLE {registry}, {staging}, {refused} IN ACCESS EXCLUSIVE MODE;

-- name: lock_target
-- The lock that an insert takes too, but before the shape is read. ONLY: partitions that no row
-- goes to are left alone.
LOCK TABLE ONLY {target} IN ROW EXCLUSIVE MODE;

-- name: lock_target_alone
-- Other writers wait: the merges read what the insert replaces. With its partitions, because rows
-- can be written into those too.
LOCK TABLE {target} IN SHARE ROW EXCLUSIVE MODE;

-- name: shape
SELECT CASE WHEN a.attrelid = {target_text}::regclass THEN 'target' ELSE 'staging' END AS of, a.attname::text AS name,
       format_type(a.atttypid, a.atttypmod) || coalesce(' COLLATE ' || quote_ident(n.nspname) || '.' || quote_ident(o.collname), '') AS type,
       a.atttypid::int8 AS type_oid, a.atttypmod AS typmod, a.attcollation::int8 AS collation_oid, a.attnotnull AS not_null,
       {filled} AS filled, a.attgenerated <> '' OR a.attidentity = 'a' AS always
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation o ON o.oid = a.attcollation AND a.attcollation <> t.typcollation
LEFT JOIN pg_namespace n ON n.oid = o.collnamespace
WHERE a.attrelid IN ({staging_text}::regclass, {target_text}::regclass) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY 1, a.attnum;

-- name: batches
SELECT no, id::text AS id, records, kept, duplicates, filtered, rejected, rows, tables FROM {registry} ORDER BY no;

-- name: counts
-- The staged rows of each batch, and in the first row the least and the greatest key, where they
-- are used.
SELECT ({record} >> 32) AS no, count(*) AS n{spread} FROM {staging} GROUP BY 1;

-- name: rejections
SELECT hr_batch AS no, count(*) AS n FROM {refused} GROUP BY 1;

-- name: ledger_insert
-- Returns the batches that were not in the ledger.
INSERT INTO {ledger} (id, kind, root, root_offset, records, kept, duplicates, filtered, rejected, staged, promoted,
                      attempt, worker, sealed_at, staged_at, tables, stages)
SELECT id, 'promoted', root, root_offset, records, kept, duplicates, filtered, rejected, rows, rows,
       attempt, worker, sealed_at, staged_at, tables, stages
FROM {registry} WHERE no = ANY(@numbers::int4[])
ORDER BY id
ON CONFLICT (id) DO NOTHING
RETURNING id::text AS id;

-- name: move_rejects
-- Moves the records that were rejected before they were staged into the durable table.
INSERT INTO {rejects} (batch, root, place, pos, whole, source, key, code, reason, payload, bytes, tables)
SELECT r.id, r.root, r.root_offset + f.pos, f.pos, true, 'stage', f.key, f.code, f.reason, f.payload, f.bytes, r.tables
FROM {refused} f JOIN {registry} r ON r.no = f.hr_batch
WHERE r.no = ANY(@numbers::int4[])
ORDER BY r.id, f.pos;

-- name: forget
DELETE FROM {registry} WHERE no = ANY(@numbers::int4[]);

-- name: delete_rows
-- For a side that cannot be truncated: deletes the rows of which no batch is left.
DELETE FROM {staging} s WHERE NOT EXISTS (SELECT FROM {registry} r WHERE r.no = {batch_no});

-- name: delete_refused
DELETE FROM {refused} f WHERE NOT EXISTS (SELECT FROM {registry} r WHERE r.no = f.hr_batch);

-- name: truncate
TRUNCATE {registry}, {staging}, {refused};
