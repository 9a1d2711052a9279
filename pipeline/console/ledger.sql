-- name: size
-- The size of the ledger in bytes. The time to sum it depends on that.
SELECT pg_relation_size(oid) FROM pg_class WHERE oid = to_regclass(@ledger::text);

-- name: minutes
-- What was committed in each minute of the last hour, and how long that took since it was sealed.
-- It uses the time of the statement, because no index serves clock_timestamp, which is volatile.
SELECT date_trunc('minute', committed_at) AS minute, count(*) AS batches,
       sum(promoted)::int8 AS rows, sum(kept)::int8 AS kept, sum(duplicates)::int8 AS duplicates, sum(filtered)::int8 AS filtered,
       sum(rejected)::int8 AS rejected,
       extract(epoch FROM percentile_disc(0.5) WITHIN GROUP (ORDER BY committed_at - sealed_at))::float8 AS median,
       extract(epoch FROM max(committed_at - sealed_at))::float8 AS longest
FROM {ledger}
WHERE committed_at >= date_trunc('minute', statement_timestamp()) - interval '59 minutes' AND kind = 'promoted'
GROUP BY 1 ORDER BY 1;

-- name: batches
-- Newest first by the time of their seal, with which a UUIDv7 begins: the primary key has
-- them in order.
SELECT id::text AS id, kind, root::text AS root, root_offset AS offset_in_root, records, kept, duplicates, filtered, rejected, staged,
       promoted, conflicts, ruled, attempt, worker, sealed_at, staged_at, committed_at
FROM {ledger} WHERE id < @before::text::uuid AND (@kind::text = '' OR kind = @kind::text)
ORDER BY id DESC LIMIT @limit::int8;

-- name: batch
SELECT id::text AS id, kind, root::text AS root, root_offset AS offset_in_root, records, kept, duplicates, filtered, rejected, staged,
       promoted, conflicts, ruled, attempt, worker, sealed_at, staged_at, committed_at
FROM {ledger} WHERE id = @id::text::uuid;

-- name: rejects
-- Newest first. A bounded number of ids is looked at, however few of them match.
SELECT id, batch::text AS batch, place, source, key, code, reason, rejected_at, resolved_at, whole,
       octet_length(coalesce(bytes, convert_to(coalesce(payload, row::text), 'UTF8')))::int8 AS length,
       substr(coalesce(bytes, convert_to(coalesce(payload, row::text), 'UTF8')), 1, @bytes::int4) AS begin
FROM {rejects}
WHERE id < @before::int8 AND id >= @before::int8 - @looked::int8
  AND (@code::text = '' OR code = @code::text)
  AND (@source::text = '' OR source = @source::text)
  AND (@since::timestamptz IS NULL OR rejected_at >= @since::timestamptz)
  AND (@resolved::bool OR resolved_at IS NULL)
ORDER BY id DESC LIMIT @limit::int8;

-- name: rejects_of_batch
SELECT id, batch::text AS batch, place, source, key, code, reason, rejected_at, resolved_at, whole,
       octet_length(coalesce(bytes, convert_to(coalesce(payload, row::text), 'UTF8')))::int8 AS length,
       substr(coalesce(bytes, convert_to(coalesce(payload, row::text), 'UTF8')), 1, @bytes::int4) AS begin
FROM {rejects} WHERE batch = @batch::text::uuid ORDER BY id LIMIT @limit::int8;

-- name: reject
SELECT id, batch::text AS batch, place, source, key, code, reason, rejected_at, resolved_at, whole,
       octet_length(coalesce(bytes, convert_to(coalesce(payload, row::text), 'UTF8')))::int8 AS length,
       substr(coalesce(bytes, convert_to(coalesce(payload, row::text), 'UTF8')), 1, @bytes::int4) AS begin
FROM {rejects} WHERE id = @id::int8;

-- name: last_reject
SELECT coalesce(max(id), 0) FROM {rejects};

-- name: codes
-- Counts the open rejects among the newest ones.
SELECT code, source, count(*) AS open, max(rejected_at) AS last
FROM {rejects} WHERE resolved_at IS NULL AND id > (SELECT coalesce(max(id), 0) FROM {rejects}) - @looked::int8
GROUP BY code, source ORDER BY open DESC, code LIMIT 50;

-- name: open_rejects
-- The open rejects that a filter selects, of one page.
SELECT id FROM {rejects}
WHERE id < @before::int8 AND id >= @before::int8 - @looked::int8 AND resolved_at IS NULL
  AND (@code::text = '' OR code = @code::text)
  AND (@source::text = '' OR source = @source::text)
ORDER BY id DESC;
