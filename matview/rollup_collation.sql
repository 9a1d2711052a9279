-- How the values of an expression are compared. The outer joins give one row, in which they are
-- NULL: their types and collations are those of the expression all the same, and a domain that
-- refuses NULL is not asked. pg_collation_for fails for a type without a collation, so MATERIALIZED
-- keeps the planner from evaluating it on a constant.
WITH e AS MATERIALIZED (
    SELECT pg_typeof({expr}) AS type, pg_typeof(x.headrace_stored) AS stored,
        CASE WHEN (SELECT t.typcollation <> 0 FROM pg_type t WHERE t.oid = pg_typeof({expr})) THEN pg_collation_for({expr}) END AS collated_as,
        CASE WHEN (SELECT t.typcollation <> 0 FROM pg_type t WHERE t.oid = pg_typeof(x.headrace_stored)) THEN pg_collation_for(x.headrace_stored) END AS stored_as
    FROM (SELECT) one LEFT JOIN (SELECT NULL::{type} AS headrace_stored WHERE false) x ON true LEFT JOIN {from} AS promoted ON false
)
SELECT type::text,
    EXISTS (SELECT FROM pg_type t WHERE t.oid = e.type AND t.typtype = 'b' AND t.typnamespace <> 'pg_catalog'::regnamespace AND t.typelem = 0),
    stored::text,
    coalesce(collated_as, ''),
    EXISTS (SELECT FROM pg_collation c WHERE c.oid = to_regcollation(collated_as) AND NOT c.collisdeterministic),
    coalesce(stored_as, ''),
    to_regoperator(format('=(%1$s,%1$s)', e.type)) IS NOT NULL
FROM e
