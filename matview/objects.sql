-- What exists under each of the names $1 (quoted) in the schemas $2 ('': by the search path), and
-- what the role may do with it.
SELECT current_user::text AS role, coalesce(s.nspname::text, '') AS schema,
    coalesce(has_schema_privilege(s.oid, 'USAGE'), false) AS schema_usage, coalesce(has_schema_privilege(s.oid, 'CREATE'), false) AS schema_create,
    coalesce(c.oid, 0) AS oid, coalesce(c.relkind::text, '') AS kind, coalesce(pg_has_role(c.relowner, 'USAGE'), false) AS owner,
    coalesce(has_table_privilege(c.oid, 'SELECT'), false) AS may_select,
    coalesce(has_any_column_privilege(c.oid, 'SELECT'), false) AS may_read, coalesce(has_table_privilege(c.oid, 'INSERT'), false) AS may_insert,
    coalesce(has_table_privilege(c.oid, 'UPDATE'), false) AS may_update, coalesce(has_table_privilege(c.oid, 'DELETE'), false) AS may_delete,
    CASE WHEN current_setting('server_version_num')::int >= 170000 THEN coalesce(has_table_privilege(c.oid, 'MAINTAIN'), false) ELSE false END AS may_maintain,
    coalesce(obj_description(c.oid, 'pg_class'), '') AS comment
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY n (ident, schema, i)
LEFT JOIN pg_namespace s ON s.nspname = coalesce(nullif(n.schema, ''), current_schema())
LEFT JOIN pg_class c ON c.oid = CASE WHEN n.schema = '' OR has_schema_privilege(s.oid, 'USAGE') THEN to_regclass(n.ident) END
ORDER BY n.i
