-- An operator, a function, a type or a relation that stands before Postgres' own of the same name,
-- and of the same operands, in the search path: '' if there is none among {functions}, {types},
-- {relations} and all operators. Every name here has its schema, or this statement would be the
-- first to mean another one. A temporary table counts for none.
WITH path AS (
    SELECT n.oid, n.nspname, s.i
    FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) WITH ORDINALITY s (name, i)
    JOIN pg_catalog.pg_namespace n ON n.nspname OPERATOR(pg_catalog.=) s.name
), before AS (
    SELECT p.oid, p.nspname
    FROM path p
    WHERE p.i OPERATOR(pg_catalog.<) (SELECT c.i FROM path c WHERE c.oid OPERATOR(pg_catalog.=) 11::pg_catalog.oid)
        AND p.oid OPERATOR(pg_catalog.<>) pg_catalog.pg_my_temp_schema()
), shadows AS (
    SELECT pg_catalog.format('operator %I.%s(%s,%s)', b.nspname, o.oprname, pg_catalog.format_type(o.oprleft, NULL), pg_catalog.format_type(o.oprright, NULL)) AS name
    FROM before b
    JOIN pg_catalog.pg_operator o ON o.oprnamespace OPERATOR(pg_catalog.=) b.oid
    JOIN pg_catalog.pg_operator c ON c.oprnamespace OPERATOR(pg_catalog.=) 11::pg_catalog.oid AND c.oprname OPERATOR(pg_catalog.=) o.oprname
        AND c.oprleft OPERATOR(pg_catalog.=) o.oprleft AND c.oprright OPERATOR(pg_catalog.=) o.oprright
    UNION ALL
    SELECT pg_catalog.format('function %I.%I(%s)', b.nspname, p.proname, pg_catalog.oidvectortypes(p.proargtypes))
    FROM before b
    JOIN pg_catalog.pg_proc p ON p.pronamespace OPERATOR(pg_catalog.=) b.oid AND p.proname OPERATOR(pg_catalog.=) ANY ({functions}::pg_catalog.name[])
    JOIN pg_catalog.pg_proc c ON c.pronamespace OPERATOR(pg_catalog.=) 11::pg_catalog.oid AND c.proname OPERATOR(pg_catalog.=) p.proname
        AND c.proargtypes OPERATOR(pg_catalog.=) p.proargtypes
    UNION ALL
    SELECT pg_catalog.format('type %I.%I', b.nspname, t.typname)
    FROM before b
    JOIN pg_catalog.pg_type t ON t.typnamespace OPERATOR(pg_catalog.=) b.oid AND t.typname OPERATOR(pg_catalog.=) ANY ({types}::pg_catalog.name[])
    JOIN pg_catalog.pg_type c ON c.typnamespace OPERATOR(pg_catalog.=) 11::pg_catalog.oid AND c.typname OPERATOR(pg_catalog.=) t.typname
    UNION ALL
    SELECT pg_catalog.format('relation %I.%I', b.nspname, r.relname)
    FROM before b
    JOIN pg_catalog.pg_class r ON r.relnamespace OPERATOR(pg_catalog.=) b.oid AND r.relname OPERATOR(pg_catalog.=) ANY ({relations}::pg_catalog.name[])
    JOIN pg_catalog.pg_class c ON c.relnamespace OPERATOR(pg_catalog.=) 11::pg_catalog.oid AND c.relname OPERATOR(pg_catalog.=) r.relname
)
SELECT coalesce(pg_catalog.min(s.name COLLATE "C"), '') AS name FROM shadows s
