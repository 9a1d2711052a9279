-- name: find_id
-- The type of the id's column (NULL: there is none), whether an index leads with it, and whether
-- the rejects have an index on their key.
SELECT format_type(a.atttypid, -1) AS type, format_type(a.atttypid, a.atttypmod) AS full_type, a.atttypid::int8 AS type_oid,
       EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
               WHERE i.indrelid = a.attrelid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = a.attnum
                 AND m.amname IN ('btree', 'hash')) AS indexed,
       has_table_privilege({target_text}::regclass, 'SELECT') AS readable,
       EXISTS (SELECT FROM pg_index i JOIN pg_attribute k ON k.attrelid = i.indrelid AND k.attnum = i.indkey[0]
               WHERE i.indrelid = {rejects_text}::regclass AND i.indisvalid AND k.attname = 'key') AS rejects_indexed
FROM (SELECT) one
LEFT JOIN pg_attribute a ON a.attrelid = {target_text}::regclass AND a.attname = @id::text AND NOT a.attisdropped;

-- name: find_rows
SELECT hr_row.{id}::text AS key, row_to_json(hr_row)::text AS row
FROM {target} hr_row
WHERE hr_row.{id} {equals} @key::text::{id_type}
LIMIT @limit::int8;

-- name: find_forms
-- A key as Postgres prints it, and as the column has it: char(n) with its padding, numeric(p, s)
-- with its decimals. A reject has the form of the program or that of Postgres.
SELECT @key::text::{id_type}::text AS printed,
       CASE WHEN @key::text::{id_type} {equals} @key::text::{id_full} THEN format('%s', @key::text::{id_full}) END AS stored;

-- name: find_rejects
-- Latest first. The index on the key leaves out records without one.
SELECT id, batch::text AS batch, pos, key, code, reason, payload, bytes, row::text AS row, root::text AS root, place, source, whole, rejected_at, resolved_at
FROM {rejects}
WHERE key = ANY(@keys::text[]) AND key <> ''
ORDER BY id DESC
LIMIT @limit::int8;

-- name: find_registered
SELECT id::text AS id, root::text AS root, root_offset, records, kept, duplicates, filtered, rejected, attempt, worker,
       (extract(epoch FROM sealed_at) * 1000000::numeric)::int8 AS sealed, (extract(epoch FROM staged_at) * 1000000::numeric)::int8 AS staged,
       NULL::int8 AS committed, '' AS kind
FROM {registry}
WHERE id = ANY(@ids::text[]::uuid[]);

-- name: find_committed
-- The batches, and the parts of those that were split. Each half has an index.
SELECT id::text AS id, root::text AS root, root_offset, records, kept, duplicates, filtered, rejected, attempt, worker,
       (extract(epoch FROM sealed_at) * 1000000::numeric)::int8 AS sealed, (extract(epoch FROM staged_at) * 1000000::numeric)::int8 AS staged,
       (extract(epoch FROM committed_at) * 1000000::numeric)::int8 AS committed, kind
FROM {ledger}
WHERE id = ANY(@ids::text[]::uuid[])
UNION ALL
SELECT id::text, root::text, root_offset, records, kept, duplicates, filtered, rejected, attempt, worker,
       (extract(epoch FROM sealed_at) * 1000000::numeric)::int8, (extract(epoch FROM staged_at) * 1000000::numeric)::int8,
       (extract(epoch FROM committed_at) * 1000000::numeric)::int8, kind
FROM {ledger}
WHERE root = ANY(@ids::text[]::uuid[]) AND root <> id AND id <> ALL(@ids::text[]::uuid[])
ORDER BY 3, 13
LIMIT @limit::int8;

-- name: find_sealed
-- Ids of the batches that the clients' clocks sealed between two times, youngest first: an id is a
-- UUIDv7, so the primary key is in the order of time.
SELECT id::text AS id
FROM {ledger}
WHERE id BETWEEN @first::text::uuid AND @last::text::uuid
ORDER BY {ledger}.id DESC
LIMIT @limit::int8;

-- name: find_floor
SELECT (extract(epoch FROM nullif(floor, '-infinity')) * 1000000::numeric)::int8 AS floor FROM {control};
