-- The collations of an expression and of the type that it is stored as, '' for types without one.
-- The outer join gives one row, in which the expression is NULL.
SELECT CASE WHEN (SELECT t.typcollation <> 0 FROM pg_type t WHERE t.oid = pg_typeof({expr})) THEN pg_collation_for({expr}) ELSE '' END,
    CASE WHEN (SELECT t.typcollation <> 0 FROM pg_type t WHERE t.oid = pg_typeof(NULL::{type})) THEN pg_collation_for(NULL::{type}) ELSE '' END
FROM (SELECT) one LEFT JOIN {from} AS promoted ON false
