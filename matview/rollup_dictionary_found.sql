-- The number of each value, NULL if it has none yet. The planner has no figures about a promotion,
-- so the statement decides. Numbers of a small table are all hashed: a full join that keeps a side
-- only after the join leaves no other way. Those of a large table are looked up one by one. Columns
-- are named one by one: a star would make the promotion return its whole rows.
SELECT {p_keys}, p.headrace_value, n.headrace_number
FROM (SELECT {key_exprs}, {value}, true AS headrace_found FROM promoted WHERE ({expr}) IS DISTINCT FROM NULL) p
FULL JOIN {values} n ON n.headrace_value OPERATOR(pg_catalog.=) p.headrace_value
WHERE {small} AND coalesce(p.headrace_found, false)
UNION ALL
SELECT {p_keys}, p.headrace_value, (SELECT n.headrace_number FROM {values} n WHERE n.headrace_value OPERATOR(pg_catalog.=) p.headrace_value)
FROM (SELECT {key_exprs}, {value} FROM promoted WHERE ({expr}) IS DISTINCT FROM NULL) p
WHERE NOT {small}
