-- The tables among $1 (quoted) and its partitions whose updates cannot be published, quoted. A
-- partition does not inherit the identity.
SELECT c.oid::regclass::text
FROM (SELECT to_regclass($1) AS oid UNION SELECT relid FROM pg_partition_tree(to_regclass($1))) t
JOIN pg_class c ON c.oid = t.oid
WHERE c.relkind IN ('r', 'p')
    AND NOT (c.relreplident IN ('f', 'i')
        OR c.relreplident = 'd' AND EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary AND x.indisvalid))
ORDER BY 1
