-- The other roll-ups in the schema of the table $1 (quoted), by their comments that begin with $3,
-- without the roll-up $2 (quoted).
SELECT n.relname::text, d.description
FROM pg_class s
JOIN pg_class n ON n.relnamespace = s.relnamespace AND n.oid IS DISTINCT FROM to_regclass($2)::oid
JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = n.oid AND d.objsubid = 0
WHERE s.oid = to_regclass($1) AND starts_with(d.description, $3)
ORDER BY 1
