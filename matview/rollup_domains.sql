-- The positions, from 1, of those of the types that are domains with a constraint, their own or
-- that of a domain below. The outer join gives one row without evaluating a NULL, which a domain
-- may refuse.
WITH RECURSIVE domains AS (
    SELECT n.i, t.oid, t.typnotnull, t.typbasetype
    FROM (SELECT) one
    LEFT JOIN (SELECT {nulls} WHERE false) x ON true
    CROSS JOIN LATERAL unnest(ARRAY[{types}]::oid[]) WITH ORDINALITY n (oid, i)
    JOIN pg_type t ON t.oid = n.oid AND t.typtype = 'd'
    UNION ALL
    SELECT d.i, t.oid, t.typnotnull, t.typbasetype
    FROM domains d
    JOIN pg_type t ON t.oid = d.typbasetype AND t.typtype = 'd'
)
SELECT ARRAY(
    SELECT DISTINCT d.i
    FROM domains d
    WHERE d.typnotnull OR EXISTS (SELECT FROM pg_constraint c WHERE c.contypid = d.oid)
    ORDER BY d.i
)
