-- Replies a row if a column compares without regard to case. $1: its type, $2 and $3: its table and
-- number there.
SELECT 'type ' || t.typname
FROM pg_catalog.pg_type t
WHERE t.oid = $1::oid AND t.typname = 'citext'
UNION ALL
SELECT 'collation ' || c.collname
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation
WHERE a.attrelid = $2::oid AND a.attnum = $3::int2 AND NOT c.collisdeterministic
