-- name: advise
-- Finds what makes promotions into the target slow and what an administrator can change.
WITH leaves AS (
    SELECT c.oid, c.reltuples, c.reloptions, pg_relation_size(c.oid) AS bytes
    FROM pg_class c
    WHERE c.oid = {target_text}::regclass AND c.relkind = 'r'
       OR c.oid IN (SELECT relid FROM pg_partition_tree({target_text}::regclass) WHERE isleaf)
), settings AS (
    SELECT name, pg_size_bytes(current_setting(name)) AS bytes, current_setting(name) AS value
    FROM unnest(ARRAY['max_wal_size', 'shared_buffers']) name
)
SELECT 'collation' AS code,
       format('the key column %I of %s sorts by the C library (collation %s): sorting and index look-ups took 28 µs a row of random keys, and 12 µs with COLLATE "C"',
              a.attname, a.attrelid::regclass, CASE o.collprovider WHEN 'd' THEN d.datcollate ELSE o.collname::text END) AS text
FROM pg_attribute a JOIN pg_collation o ON o.oid = a.attcollation JOIN pg_database d ON d.datname = current_database()
WHERE a.attrelid = {target_text}::regclass AND a.attname = ANY({key_names})
  AND CASE o.collprovider
      WHEN 'd' THEN d.datlocprovider = 'c' AND d.datcollate !~ '^(C|POSIX)(\.|$)'
      ELSE o.collprovider = 'c' AND o.collcollate !~ '^(C|POSIX)(\.|$)'
      END
UNION ALL
SELECT 'unanalyzed', format('%s (%s) was never analyzed: run ANALYZE, or concurrent queries are planned without statistics', oid::regclass, pg_size_pretty(bytes))
FROM leaves WHERE reltuples < 0::real AND bytes > 8 * 1024 * 1024
UNION ALL
SELECT 'autovacuum', format('autovacuum is off for %s: nothing will analyze it or mark its pages as visible', oid::regclass)
FROM leaves
WHERE NOT current_setting('autovacuum')::bool
   OR EXISTS (SELECT FROM unnest(reloptions) o WHERE o ~* '^autovacuum_enabled=(off|false|no|0)')
UNION ALL
SELECT 'max_wal_size', format('max_wal_size is %s: under load a checkpoint begins each time it is full, and after each checkpoint the first change of a page writes the whole page to the WAL; 4GB or more', value)
FROM settings WHERE name = 'max_wal_size' AND bytes < 4::bigint * 1024 * 1024 * 1024
UNION ALL
SELECT 'shared_buffers', format('shared_buffers is %s, the indexes of %s have %s: inserts of random keys read index pages back from the system', value, {target_text}::regclass, pg_size_pretty(i.bytes))
FROM settings, LATERAL (SELECT sum(pg_indexes_size(oid))::bigint AS bytes FROM leaves) i
WHERE name = 'shared_buffers' AND i.bytes > settings.bytes
