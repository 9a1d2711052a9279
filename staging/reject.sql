-- name: rejects_by_batch
-- One reject for each record of which every row was rejected.
SELECT DISTINCT ON (batch, pos)
       batch::text AS batch, pos, key, code, reason, payload, bytes, row::text AS row, root::text AS root, place
FROM {rejects}
WHERE batch = ANY(@batches::text[]::uuid[]) AND whole
ORDER BY batch, pos, id;

-- name: rejected_keys
-- The same records, without what may be large.
SELECT DISTINCT ON (batch, pos) batch::text AS batch, pos, key, root::text AS root, place
FROM {rejects}
WHERE batch = ANY(@batches::text[]::uuid[]) AND whole
ORDER BY batch, pos, id;

-- name: rejects_count
SELECT code, source, count(*) FILTER (WHERE resolved_at IS NULL) AS open, count(resolved_at) AS resolved, max(rejected_at) AS latest
FROM {rejects}
WHERE rejected_at >= @since::timestamptz
GROUP BY code, source
ORDER BY open DESC, resolved DESC, code, source
LIMIT @limit::int8;

-- name: rejects_list
SELECT id, batch::text AS batch, pos, key, code, reason, payload, bytes, row::text AS row, root::text AS root, place, source, whole, rejected_at, resolved_at
FROM {rejects}
WHERE id > @after::int8
  AND (@code::text = '' OR code = @code::text)
  AND (@batch::text = '' OR batch = nullif(@batch::text, '')::uuid)
  AND (@key::text = '' OR key = @key::text)
  AND rejected_at >= @since::timestamptz
  AND (@resolved::bool OR resolved_at IS NULL)
ORDER BY id
LIMIT @limit::int8;
