-- What keeps the table $1 (quoted), or one of its partitions, from holding what a merge writes: a
-- sentence each. With $2 the table that is aggregated is UNLOGGED too, and a crash empties both.
SELECT CASE kind WHEN 'u' THEN format('table %s is UNLOGGED, and a crash empties it', name)
    ELSE format('trigger %s of table %s runs BEFORE its rows are written, and may change or drop what a merge writes', kind, name) END
FROM (
    SELECT c.oid::regclass::text AS name, 'u' AS kind
    FROM (SELECT to_regclass($1) AS oid UNION SELECT relid FROM pg_partition_tree(to_regclass($1))) t
    JOIN pg_class c ON c.oid = t.oid
    WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND NOT $2
    UNION ALL
    SELECT t.oid::regclass::text, quote_ident(g.tgname)
    FROM (SELECT to_regclass($1) AS oid UNION SELECT relid FROM pg_partition_tree(to_regclass($1))) t
    JOIN pg_trigger g ON g.tgrelid = t.oid
    WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype::int & 3 = 3 -- BEFORE, FOR EACH ROW
) x
ORDER BY 1
