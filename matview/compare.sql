-- How to judge the definition of the view $1 (quoted, named $2 in {state}): the schema in which the
-- role may create a view for a moment, '' if there is none; and the recorded query, NULL if there
-- is none of this very view.
SELECT CASE WHEN has_database_privilege(current_database(), 'TEMPORARY') THEN 'pg_temp'
        WHEN has_schema_privilege(c.relnamespace, 'CREATE') THEN quote_ident(n.nspname) ELSE '' END,
    nullif(s.definition, '')
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN {state} s ON s.name = $2 AND s.view = c.oid
WHERE c.oid = to_regclass($1)
