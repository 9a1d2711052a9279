-- What the owners of the views $1 (quoted), as whom REFRESH runs, lack: SELECT on what a view reads
-- itself, and TEMPORARY, because a concurrent refresh makes a temporary table. Each as privilege,
-- object, role.
WITH views AS (
    SELECT v.oid, v.relowner, pg_get_userbyid(v.relowner)::text AS owner FROM unnest($1::text[]) w (ident) JOIN pg_class v ON v.oid = to_regclass(w.ident)
)
SELECT DISTINCT 'SELECT', format('TABLE %I.%I', n.nspname, r.relname), v.owner
FROM views v
JOIN pg_rewrite rw ON rw.ev_class = v.oid
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = rw.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid
JOIN pg_class r ON r.oid = d.refobjid
JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE r.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT has_any_column_privilege(v.relowner, r.oid, 'SELECT')
UNION
SELECT 'TEMPORARY', format('DATABASE %I', current_database()), v.owner
FROM views v
WHERE EXISTS (SELECT FROM pg_index x WHERE x.indrelid = v.oid AND x.indisunique)
    AND NOT has_database_privilege(v.relowner, (SELECT oid FROM pg_database WHERE datname = current_database()), 'TEMPORARY')
ORDER BY 2, 1
