-- The operators $1 and the aggregate functions $2 of the user that Postgres would take for values
-- of a type, instead of those of the type itself: they fit a domain or an enum better. A type that
-- the user brought has operators and functions of its own. The outer join evaluates no NULL, which
-- a domain may refuse.
WITH RECURSIVE chain AS (
    SELECT t.oid, t.typbasetype, t.typtype, t.typnamespace
    FROM (SELECT) one
    LEFT JOIN (SELECT NULL::{type} AS headrace_value WHERE false) x ON true
    JOIN pg_type t ON t.oid = pg_typeof(x.headrace_value)
    UNION ALL
    SELECT t.oid, t.typbasetype, t.typtype, t.typnamespace
    FROM chain d JOIN pg_type t ON t.oid = d.typbasetype
), own AS (
    SELECT EXISTS (SELECT FROM chain WHERE typtype = 'b' AND typnamespace <> 'pg_catalog'::regnamespace) AS brought
)
SELECT coalesce(min(x.name), '')
FROM (
    SELECT 'operator ' || o.oid::regoperator::text AS name
    FROM pg_operator o CROSS JOIN own
    WHERE o.oprname = ANY ($1::text[]) AND o.oprleft IN (SELECT oid FROM chain) AND o.oprright IN (SELECT oid FROM chain)
        AND o.oprnamespace <> 'pg_catalog'::regnamespace AND pg_operator_is_visible(o.oid)
        AND CASE WHEN o.oprname = '=' THEN NOT EXISTS (
            SELECT FROM pg_opclass c JOIN pg_amop a ON a.amopfamily = c.opcfamily
            WHERE c.opcdefault AND c.opcintype IN (SELECT oid FROM chain) AND a.amopopr = o.oid
        ) ELSE NOT own.brought END
    UNION ALL
    SELECT 'function ' || p.oid::regprocedure::text
    FROM pg_proc p CROSS JOIN own
    WHERE p.proname = ANY ($2::text[]) AND p.pronargs = 1 AND p.proargtypes[0] IN (SELECT oid FROM chain)
        AND p.pronamespace <> 'pg_catalog'::regnamespace AND pg_function_is_visible(p.oid) AND NOT own.brought
) x
