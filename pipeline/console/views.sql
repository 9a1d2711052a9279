-- Describes the views of a set by the table that records their refreshes.
SELECT s.name, c.relispopulated, s.refreshed_at, coalesce(s.took, '0'), s.as_of, coalesce(greatest(clock_timestamp() - s.as_of, '0'), '0'),
       coalesce(s.version, ''), coalesce(s.refreshes, 0), pg_total_relation_size(c.oid),
       CASE WHEN c.relispopulated THEN c.reltuples::bigint ELSE -1 END
FROM {state} s JOIN pg_class c ON c.oid = s.view ORDER BY s.name
