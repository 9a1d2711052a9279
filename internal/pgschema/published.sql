-- Why Postgres updates no row of some relations: a publication of updates needs the old row's
-- replica identity. It has to publish the whole of it, and to filter rows by nothing else. A
-- publication that publishes partitions as their root has the root's columns and filter. (Columns
-- of the catalogue that are newer than PostgreSQL 15 are read as JSON.)
SELECT format(CASE
        WHEN NOT i.whole AND i.columns IS NULL
            THEN '%1$s is published and has no replica identity, so none of its rows can be replaced (ALTER TABLE %1$s REPLICA IDENTITY FULL)'
        WHEN r.columns IS NOT NULL AND (i.whole OR NOT i.columns <@ r.columns)
            THEN 'the publication %2$I has a list of columns of %1$s without its whole replica identity, so none of its rows can be replaced (publish all columns)'
        WHEN NOT i.whole AND NOT r.filter <@ i.columns
            THEN 'the publication %2$I filters rows of %1$s by a column outside of its replica identity, so none of its rows can be replaced (ALTER TABLE %1$s REPLICA IDENTITY FULL)'
        WHEN r.columns IS NULL AND u.generated = 'n' AND 's' = ANY(i.generated)
            THEN 'the publication %2$I leaves out generated columns of %1$s, which are in its replica identity, so none of its rows can be replaced (ALTER PUBLICATION %2$I SET (publish_generated_columns = stored))'
        WHEN u.generated IS NOT NULL AND 'v' = ANY(i.generated)
            THEN 'the publication %2$I cannot publish virtual generated columns of %1$s, which are in its replica identity, so none of its rows can be replaced (name an index without them: ALTER TABLE %1$s REPLICA IDENTITY USING INDEX)'
    END, c.oid::regclass, u.name) AS what
FROM pg_class c
CROSS JOIN LATERAL (
    SELECT c.relreplident = 'f' AS whole, array_agg(a.attname::text) AS columns, coalesce(array_agg(a.attgenerated::text), '{}') AS generated
    FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND (c.relreplident = 'f'
           OR EXISTS (SELECT FROM pg_index x
                      WHERE x.indrelid = c.oid AND a.attnum = ANY((x.indkey::int2[])[0:x.indnkeyatts - 1])
                        AND CASE c.relreplident WHEN 'd' THEN x.indisprimary AND x.indimmediate WHEN 'i' THEN x.indisreplident ELSE false END))
) i
CROSS JOIN LATERAL (
    SELECT p.oid, p.pubname AS name, p.pubviaroot AS as_root, to_jsonb(p)->>'pubgencols' AS generated
    FROM pg_publication p
    WHERE p.pubupdate
      AND EXISTS (SELECT FROM (SELECT c.oid AS relid UNION SELECT x.relid::oid FROM pg_partition_ancestors(c.oid) x) t
                  JOIN pg_class a ON a.oid = t.relid
                  LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = a.oid
                  WHERE (p.puballtables OR r.oid IS NOT NULL OR EXISTS (SELECT FROM pg_publication_namespace n WHERE n.pnpubid = p.oid AND n.pnnspid = a.relnamespace))
                    AND coalesce(to_jsonb(r)->>'prexcept', 'false') = 'false')
) u
LEFT JOIN LATERAL (
    SELECT CASE WHEN r.prattrs IS NOT NULL THEN ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = r.prrelid AND a.attnum = ANY(r.prattrs::int2[])) END AS columns,
           ARRAY(SELECT a.attname::text FROM regexp_matches(r.prqual::text, ':varattno (\d+)', 'g') f JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = f[1]::int2) AS filter
    FROM pg_publication_rel r
    LEFT JOIN LATERAL pg_partition_ancestors(c.oid) WITH ORDINALITY x(relid, level) ON x.relid = r.prrelid
    WHERE r.prpubid = u.oid AND (r.prrelid = c.oid OR u.as_root AND x.relid IS NOT NULL)
    ORDER BY x.level DESC NULLS LAST
    LIMIT 1
) r ON true
WHERE c.relkind = 'r' AND c.oid IN {relations}
  AND (NOT i.whole AND i.columns IS NULL
       OR r.columns IS NOT NULL AND (i.whole OR NOT i.columns <@ r.columns)
       OR NOT i.whole AND NOT r.filter <@ i.columns
       OR r.columns IS NULL AND u.generated = 'n' AND 's' = ANY(i.generated)
       OR u.generated IS NOT NULL AND 'v' = ANY(i.generated))
