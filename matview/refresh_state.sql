-- The state of the view $1 (quoted, named $2) for a run that began as $3 and has the token $4.
-- Another run has refreshed the view since then if it began later than this run and before now: an
-- id from the future is that of another cluster, from which the table was restored.
SELECT c.oid, coalesce(c.relispopulated, false),
    coalesce(s.started > $3::text::xid8 AND s.started < pg_snapshot_xmax(pg_current_snapshot()), false),
    coalesce(s.version = $4, false),
    EXISTS (
        SELECT FROM pg_index x
        WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid AND x.indimmediate AND x.indpred IS NULL AND x.indexprs IS NULL
    )
FROM (SELECT to_regclass($1) AS oid) n
LEFT JOIN pg_class c ON c.oid = n.oid
LEFT JOIN {state} s ON s.name = $2 AND s.view = c.oid
