-- name: guards
-- What besides the key can refuse a row of the target or of one of its partitions. With this a
-- promotion inserts in parts. Also whether the key still has its index, and which tables a crash
-- would empty.
WITH tree AS (
    SELECT relid AS oid FROM {partitions} hr_partitions
), bookkeeping AS (
    {bookkeeping}
)
SELECT {target_text}::regclass::oid::int8 AS target,
       EXISTS (SELECT FROM pg_trigger g JOIN tree ON g.tgrelid = tree.oid
               WHERE (g.tgtype::int & 7 = 7 OR {replaces} AND g.tgtype::int & 19 = 19) AND {fires} AND NOT g.tgisinternal) AS before_row,
       EXISTS (SELECT FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhparent WHERE c.oid = {target_text}::regclass AND c.relkind = 'r') AS children,
       EXISTS (SELECT FROM pg_trigger g JOIN tree ON g.tgrelid = tree.oid
               WHERE (g.tgtype::int & 4 = 4 OR {replaces} AND g.tgtype::int & 16 = 16) AND {fires} AND NOT g.tgisinternal) AS triggers,
       EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = {target_text}::regclass AND c.confrelid = c.conrelid) AS tree,
       (SELECT length(open) FROM {control}) AS lanes,
       pg_backend_pid() AS backend,
       row_security_active({target_text}::regclass)
       OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = {target_text}::regclass AND a.attgenerated <> '' AND NOT a.attisdropped)
       OR EXISTS (
           SELECT FROM pg_index i JOIN tree ON i.indrelid = tree.oid
           WHERE i.indislive AND (i.indisunique OR i.indisexclusion OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
             AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL OR i.indisexclusion
                  OR NOT coalesce((SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C") FROM pg_attribute a
                      WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[]) AND array_position(i.indkey::int2[], a.attnum) < i.indnkeyatts)
                     OPERATOR(pg_catalog.=) {key_names}, false))
       )
       OR {unseen} AS guarded,
       cardinality({key_names}) = 0 OR EXISTS (
           SELECT FROM pg_index i
           WHERE i.indrelid = {target_text}::regclass AND {arbiter}
             AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C") FROM pg_attribute a
                  WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[]) AND array_position(i.indkey::int2[], a.attnum) < i.indnkeyatts)
                 OPERATOR(pg_catalog.=) {key_names}
       ) AS arbiter,
       coalesce((SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c JOIN tree ON c.oid = tree.oid WHERE c.relpersistence = 'u'), '') AS unlogged,
       {unfit} AS unfit, {closed} AS closed, forgetful, ledger_key
FROM bookkeeping

-- name: unseen
-- Whether a constraint may refuse a row that is no suspect: then each row of a key must be tried. A
-- row that ON CONFLICT leaves out meets the checks, and no foreign key.
cardinality({key_names}) > 0 AND EXISTS (
    SELECT FROM pg_constraint c JOIN tree ON c.conrelid = tree.oid
    WHERE c.contype = 'c'
      AND CASE WHEN c.conrelid <> {target_text}::regclass THEN c.coninhcount = 0
               ELSE coalesce(cardinality(c.conkey), 0) = 0
                    OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY(c.conkey)
                               AND (a.attgenerated <> '' OR a.attname <> ALL({column_names}))) END
       OR {replaces} AND c.contype = 'f'
      AND CASE WHEN c.conrelid <> {target_text}::regclass THEN c.conparentid = 0
               ELSE c.confmatchtype <> 's' OR pg_get_constraintdef(c.oid) LIKE '%PERIOD%'
                    OR NOT has_table_privilege(c.confrelid, 'SELECT') OR row_security_active(c.confrelid) END)

-- name: bookkeeping
-- Whether a crash would empty the ledger, the rejects or the floor, and whether the ledger still
-- refuses a batch that it has.
SELECT coalesce((SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c
                 WHERE c.relpersistence = 'u' AND c.oid = ANY(ARRAY[{ledger_text}, {rejects_text}, {control_text}]::regclass[])), '') AS forgetful,
       EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
               WHERE i.indrelid = {ledger_text}::regclass AND i.indisunique AND i.indisvalid AND i.indimmediate
                 AND i.indnkeyatts = 1 AND i.indpred IS NULL AND i.indexprs IS NULL AND a.attname = 'id') AS ledger_key

-- name: suspects
-- Conditions over a staged row (alias s) that the target's constraints of this moment will probably
-- refuse. They only find suspects: what they miss or raise costs time, no more. A foreign key to
-- another table has that table as its parent, the parent's columns, and what they must equal: in a
-- group the parent may be staged, too.
SELECT format('s.%I IS NOT DISTINCT FROM NULL', a.attname) AS condition, 0::int8 AS parent, '' AS equal, '[]'::json AS parent_columns
FROM pg_attribute a
WHERE a.attrelid = {target_text}::regclass AND a.attnotnull AND NOT a.attisdropped AND a.attname = ANY({nullable_names})
UNION ALL
SELECT format('(%s) IS FALSE', pg_get_expr(c.conbin, c.conrelid)), 0, '', '[]'
FROM pg_constraint c
WHERE c.conrelid = {target_text}::regclass AND c.contype = 'c' AND cardinality(c.conkey) > 0
  AND to_jsonb(c)->'conenforced' IS DISTINCT FROM 'false' -- new in PostgreSQL 18
  AND NOT EXISTS (SELECT FROM unnest(c.conkey) k(att) LEFT JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.att
                  WHERE a.attname IS NULL OR a.attgenerated <> '' OR a.attname <> ALL({column_names}))
UNION ALL
SELECT x.filled || ' AND NOT EXISTS (SELECT FROM ' || x.parent || ' hr_parent WHERE ' || x.equal || ')'
       || CASE WHEN c.confrelid = c.conrelid
               THEN ' AND NOT EXISTS (SELECT FROM ' || {staging_text} || ' hr_parent WHERE ' || x.equal || ')' ELSE '' END,
       CASE WHEN c.confrelid = c.conrelid THEN 0 ELSE c.confrelid::int8 END, x.equal, x.parent_columns
FROM pg_constraint c
JOIN pg_class p ON p.oid = c.confrelid
JOIN pg_namespace n ON n.oid = p.relnamespace
CROSS JOIN LATERAL (
    SELECT format('%I.%I', n.nspname, p.relname) AS parent,
           string_agg(format('s.%I IS DISTINCT FROM NULL', a.attname), ' AND ') AS filled,
           string_agg(format('hr_parent.%I OPERATOR(%I.%s) s.%I', pa.attname, ns.nspname, o.oprname, a.attname), ' AND ') AS equal,
           bool_and(a.attname = ANY({column_names}) AND a.attgenerated = '') AS staged,
           bool_and(pa.attname = ANY({column_names})) AS parent_staged,
           json_agg(pa.attname) AS parent_columns
    FROM unnest(c.conkey, c.confkey, c.conpfeqop) k(att, parent_att, equal)
    JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.att
    JOIN pg_attribute pa ON pa.attrelid = c.confrelid AND pa.attnum = k.parent_att
    JOIN pg_operator o ON o.oid = k.equal
    JOIN pg_namespace ns ON ns.oid = o.oprnamespace
) x
WHERE c.conrelid = {target_text}::regclass AND c.contype = 'f' AND c.confmatchtype = 's' AND x.staged
  AND to_jsonb(c)->'conenforced' IS DISTINCT FROM 'false'
  -- A key to a partitioned table has a constraint for each partition too. No row has its parent in
  -- all of them.
  AND NOT EXISTS (SELECT FROM pg_constraint up WHERE up.oid = c.conparentid AND up.conrelid = c.conrelid)
  AND (c.confrelid <> c.conrelid OR x.parent_staged)
  AND has_table_privilege(c.confrelid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') AND NOT row_security_active(c.confrelid)
  AND pg_get_constraintdef(c.oid) NOT LIKE '%PERIOD%'
