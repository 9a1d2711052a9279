SELECT n.name, c.relispopulated, s.refreshed_at, s.took, s.as_of, greatest(clock_timestamp() - s.as_of, '0'), coalesce(s.version, ''), coalesce(s.refreshes, 0),
    pg_total_relation_size(c.oid), CASE WHEN c.relispopulated THEN c.reltuples::bigint ELSE -1 END
FROM unnest($1::text[], $2::text[]) n (name, ident)
JOIN pg_class c ON c.oid = to_regclass(n.ident)
LEFT JOIN {state} s ON s.name = n.name AND s.view = c.oid
