-- Whether updates of the table $1 (quoted) can be published.
SELECT c.relreplident IN ('f', 'i') OR c.relreplident = 'd' AND EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary AND x.indisvalid)
FROM pg_class c
WHERE c.oid = to_regclass($1)
