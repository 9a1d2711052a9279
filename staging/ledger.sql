-- name: ledger_kinds
SELECT id::text AS id, kind, tables FROM {ledger} WHERE id = ANY(@ids::text[]::uuid[]);

-- name: ledger_too_old
SELECT l.id::text AS id FROM {ledger} l, {control} c WHERE l.id = ANY(@ids::text[]::uuid[]) AND l.sealed_at < c.floor;

-- name: ledger_delete
DELETE FROM {ledger} WHERE id = ANY(@ids::text[]::uuid[]);

-- name: ledger_correct
-- Writes what the ledger could not know when the batches were inserted.
UPDATE {ledger} l
SET conflicts = u.conflicts, ruled = u.refused, promoted = l.staged - u.conflicts - u.refused
FROM unnest(@ids::text[]::uuid[], @conflicts::int4[], @refused::int4[]) u(id, conflicts, refused)
WHERE l.id = u.id;

-- name: ledger_void
-- The unique index waits for a promoter that has inserted the batch and has not committed yet.
INSERT INTO {ledger} (id, kind, root, root_offset, records, attempt, worker, sealed_at)
VALUES (@id::text::uuid, 'void', @root::text::uuid, @offset::int4, @records::int4, @attempt::int8, @worker::text, @sealed::timestamptz)
ON CONFLICT (id) DO NOTHING;

-- name: ledger_replay
-- Enters corrected rejects as a batch of their own.
INSERT INTO {ledger} (id, kind, root, root_offset, records, kept, filtered, staged, promoted, conflicts, worker, sealed_at, staged_at, tables)
VALUES (@id::text::uuid, 'promoted', @id::text::uuid, 0, @records::int4, @kept::int4, @records::int4 - @kept::int4,
        @rows::int4, @written::int4, @rows::int4 - @written::int4, 'replay', clock_timestamp(), clock_timestamp(), @tables::text);

-- name: ledger_sums
-- What Books sums over rows of the ledger: a part of other statements.
count(*) FILTER (WHERE kind = 'promoted') AS batches,
       count(*) FILTER (WHERE kind = 'void') AS void,
       coalesce(sum(records)    FILTER (WHERE kind = 'promoted'), 0)::int8 AS records,
       coalesce(sum(kept)       FILTER (WHERE kind = 'promoted'), 0)::int8 AS kept,
       coalesce(sum(duplicates) FILTER (WHERE kind = 'promoted'), 0)::int8 AS duplicates,
       coalesce(sum(filtered)   FILTER (WHERE kind = 'promoted'), 0)::int8 AS filtered,
       coalesce(sum(rejected)   FILTER (WHERE kind = 'promoted'), 0)::int8 AS rejected,
       coalesce(sum(staged)     FILTER (WHERE kind = 'promoted'), 0)::int8 AS staged,
       coalesce(sum(promoted)   FILTER (WHERE kind = 'promoted'), 0)::int8 AS promoted,
       coalesce(sum(conflicts)  FILTER (WHERE kind = 'promoted'), 0)::int8 AS conflicts,
       coalesce(sum(ruled)      FILTER (WHERE kind = 'promoted'), 0)::int8 AS ruled

-- name: ledger_books
-- What was pruned was committed before the floor less the margin. Its sums belong to a span that
-- has all of that past; another span that begins in it misses rows, and so does every one if the
-- sums are not known. The year 1 is the zero time of Go.
WITH past AS (
    SELECT pruned, @since::timestamptz < floor - {margin} AS begins_in_it,
           @since::timestamptz <= '0001-01-01 00:00:00+00' AND @until::timestamptz >= floor - {margin} AS whole
    FROM {control}
), parts AS (
    SELECT {sums} FROM {ledger} WHERE committed_at >= @since::timestamptz AND committed_at < @until::timestamptz
    UNION ALL
    SELECT p.* FROM past, jsonb_to_record(pruned) p(
        batches int8, void int8, records int8, kept int8, duplicates int8, filtered int8,
        rejected int8, staged int8, promoted int8, conflicts int8, ruled int8)
    WHERE whole
)
SELECT sum(batches)::int8 AS batches, sum(void)::int8 AS void, sum(records)::int8 AS records,
       sum(kept)::int8 AS kept, sum(duplicates)::int8 AS duplicates, sum(filtered)::int8 AS filtered,
       sum(rejected)::int8 AS rejected, sum(staged)::int8 AS staged, sum(promoted)::int8 AS promoted,
       sum(conflicts)::int8 AS conflicts, sum(ruled)::int8 AS ruled,
       (SELECT begins_in_it AND (pruned IS NULL OR NOT whole) FROM past) AS pruned
FROM parts;

-- name: prune_ledger
-- Deletes rows and adds them to the sums of what was pruned.
WITH deleted AS (
    DELETE FROM {ledger} WHERE id IN (SELECT id FROM {ledger} WHERE committed_at < @before::timestamptz LIMIT @limit::int8)
    RETURNING *
), sums AS (
    SELECT {sums} FROM deleted
), added AS (
    UPDATE {control} SET pruned = (SELECT jsonb_object_agg(s.key, s.value::int8 + coalesce((pruned->>s.key)::int8, 0)) FROM sums, jsonb_each_text(to_jsonb(sums)) s)
    WHERE pruned IS NOT NULL AND EXISTS (SELECT FROM deleted)
)
SELECT FROM deleted; -- the command's tag counts them

-- name: ledger_stages
-- Sums what the stages dropped. Equal texts are counted together first: most batches have one of a
-- few.
WITH texts AS (
    SELECT stages, count(*) AS n, sum(records) AS records
    FROM {ledger}
    WHERE kind = 'promoted' AND stages <> '' AND committed_at >= @since::timestamptz
    GROUP BY stages
), steps AS (
    SELECT t.stages, t.records, s.place, split_part(s.step, ' ', 1) AS stage,
           t.n * split_part(s.step, ' ', 2)::int8 AS duplicates, t.n * split_part(s.step, ' ', 3)::int8 AS filtered,
           t.n * split_part(s.step, ' ', 4)::int8 AS rejected
    FROM texts t, string_to_table(t.stages, ';') WITH ORDINALITY s(step, place)
), entered AS (
    SELECT *, records + duplicates + filtered + rejected
              - (sum(duplicates + filtered + rejected) OVER (PARTITION BY stages ORDER BY place))::int8 AS entered
    FROM steps
)
SELECT stage, sum(entered)::int8 AS entered, sum(duplicates)::int8 AS duplicates, sum(filtered)::int8 AS filtered, sum(rejected)::int8 AS rejected
FROM entered GROUP BY stage ORDER BY max(place), stage;

-- name: clock
SELECT (extract(epoch FROM clock_timestamp()) * 1000000::numeric)::int8 AS clock;

-- name: registered
SELECT id::text AS id FROM {registry} WHERE id = ANY(@ids::text[]::uuid[]);

-- name: read_epoch
SELECT epoch FROM {epoch};

-- name: set_epoch
INSERT INTO {epoch} DEFAULT VALUES ON CONFLICT DO NOTHING;
