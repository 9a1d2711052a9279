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

-- name: resolve_rejects
WITH resolved AS (
    UPDATE {rejects} SET resolved_at = clock_timestamp()
    WHERE id = ANY(@ids::text::int8[]) AND resolved_at IS NULL
    RETURNING id, code, tables
), counted AS (
    INSERT INTO {reject_counts} (code, open, resolved)
    SELECT code, -count(*), count(*) FROM resolved GROUP BY code
)
SELECT id, tables FROM resolved;

-- name: prune_rejects
WITH pruned AS (
    DELETE FROM {rejects} WHERE resolved_at < @before::timestamptz RETURNING code
)
INSERT INTO {reject_counts} (code, open, resolved)
SELECT code, 0, -count(*) FROM pruned GROUP BY code;

-- name: count_rejects
-- Counts what a promotion has rejected, and joins the rows of the counts when they are many. A row
-- that another promotion is joining is left to that one. Returns how many rejects the table has.
WITH fresh AS (
    SELECT code, count(*) AS open, 0 AS resolved FROM {rejects} WHERE batch = ANY(@batches::text[]::uuid[]) GROUP BY code
), many AS (
    SELECT ctid AS place FROM {reject_counts}
    WHERE (SELECT count(*) FROM {reject_counts}) > @most::int8
    FOR UPDATE SKIP LOCKED
), joined AS (
    DELETE FROM {reject_counts} c USING many WHERE c.ctid = many.place RETURNING c.code, c.open, c.resolved
), counted AS (
    INSERT INTO {reject_counts} (code, open, resolved)
    SELECT code, sum(open), sum(resolved)
    FROM (SELECT * FROM fresh UNION ALL SELECT * FROM joined) x
    GROUP BY code
    HAVING sum(open)::int8 <> 0 OR sum(resolved)::int8 <> 0
)
SELECT coalesce(sum(open), 0)::int8 AS found FROM fresh;

-- name: reject_counts
SELECT code, sum(open)::int8 AS open, sum(resolved)::int8 AS resolved
FROM {reject_counts}
GROUP BY code
HAVING sum(open)::int8 <> 0 OR sum(resolved)::int8 <> 0
ORDER BY code;
