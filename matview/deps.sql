-- Which of the relations (name $1[i], quoted $2[i]) reads which other of them, through views and
-- functions in between.
WITH RECURSIVE wanted AS (
    SELECT n.name, to_regclass(n.ident)::oid AS oid
    FROM unnest($1::text[], $2::text[]) n (name, ident)
), reads AS (
    SELECT w.name, 'pg_class'::regclass::oid AS class, w.oid AS object
    FROM wanted w
    UNION
    SELECT x.name, d.refclassid, d.refobjid
    FROM reads x
    CROSS JOIN LATERAL (
        SELECT d.refclassid, d.refobjid
        FROM pg_rewrite r
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
        WHERE x.class = 'pg_class'::regclass AND r.ev_class = x.object
        UNION ALL
        SELECT d.refclassid, d.refobjid
        FROM pg_depend d
        WHERE x.class = 'pg_proc'::regclass AND d.classid = 'pg_proc'::regclass AND d.objid = x.object
    ) d
    WHERE d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass)
)
SELECT DISTINCT x.name, w.name
FROM reads x
JOIN wanted w ON w.oid = x.object AND x.class = 'pg_class'::regclass
WHERE x.name <> w.name
