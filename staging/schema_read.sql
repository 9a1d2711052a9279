-- name: relation
-- The relation of a name; without a schema, the one that the search path finds first.
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind, c.relpersistence::text AS persistence
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(@name::text);

-- name: columns
-- The columns of a table, with their defaults as SQL. A column with an identity has its sequence's
-- next value as default. The sequence is named by a text: a staging table that names it as regclass
-- would depend on it, and so keep the target, which owns it, from being dropped.
SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type, a.atttypid::int8 AS type_oid, a.atttypmod AS typmod,
       a.attcollation::int8 AS collation_oid,
       a.attnotnull AS not_null, {filled} AS filled, a.attidentity::text AS identity, a.attgenerated::text AS generated,
       coalesce(' COLLATE ' || quote_ident(n.nspname) || '.' || quote_ident(o.collname), '') AS collation,
       coalesce(NOT used.collisdeterministic, false) AS folding,
       coalesce(CASE WHEN a.attgenerated = '' AND q.name IS NOT NULL THEN format('nextval((%L::text)::regclass)', q.name) END,
                CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
                CASE WHEN a.attidentity <> '' THEN format('nextval((%L::text)::regclass)', pg_get_serial_sequence(a.attrelid::regclass::text, a.attname)) END,
                '') AS default
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation o ON o.oid = a.attcollation AND a.attcollation <> t.typcollation
LEFT JOIN pg_namespace n ON n.oid = o.collnamespace
LEFT JOIN pg_collation used ON used.oid = a.attcollation
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN LATERAL (
    SELECT format('%I.%I', sn.nspname, s.relname) AS name
    FROM pg_depend p
    JOIN pg_class s ON s.oid = p.refobjid AND s.relkind = 'S'
    JOIN pg_namespace sn ON sn.oid = s.relnamespace
    WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass
      AND pg_get_expr(d.adbin, d.adrelid) ~ '^nextval\(''([^'']|'''')*''::regclass\)$'
) q ON true
WHERE a.attrelid = @oid::int8::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;

-- name: filled
-- A column a of type t gets a value when an insert leaves it out: by a default, or perhaps by a
-- trigger.
(a.atthasdef OR a.attidentity <> '' OR t.typdefaultbin IS NOT NULL
 OR EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = a.attrelid AND g.tgtype::int & 7 = 7 AND {fires} AND NOT g.tgisinternal))

-- name: fires
-- A trigger, or a rule, runs in this session.
{enabled} IN ('A', CASE WHEN current_setting('session_replication_role') = 'replica' THEN 'R' ELSE 'O' END)

-- name: type
-- An operator of an extension is named with its schema: the search path may lack it, and Postgres
-- then silently takes one of another type, such as that of text for citext. So is one of Postgres'
-- own types: an operator of the user may fit varchar better than that of text does.
SELECT t.oid::int8 AS oid, t.typbasetype::int8 AS base, t.typelem::int8 AS element, t.typtype::text AS kind, t.typcategory::text AS category,
       t.typname::text AS name, t.typtypmod AS typmod, t.typnotnull AS not_null,
       t.typreceive::oid = 0 AS text_only,
       coalesce(o.at_most, b.schema || '<=)', '<=') AS at_most, coalesce(o.equal, b.schema || '=)', '=') AS equal,
       coalesce(o.greater, b.schema || '>)', '>') AS greater, o.equal IS NOT NULL AS own_order
FROM pg_type t
CROSS JOIN LATERAL (
    SELECT max(x.name) FILTER (WHERE x.strategy = 2) AS at_most, max(x.name) FILTER (WHERE x.strategy = 3) AS equal, max(x.name) FILTER (WHERE x.strategy = 5) AS greater
    FROM (
        SELECT m.amopstrategy AS strategy, format('OPERATOR(%I.%s)', n.nspname, p.oprname) AS name
        FROM pg_opclass c
        JOIN pg_am a ON a.oid = c.opcmethod AND a.amname = 'btree'
        JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
        JOIN pg_operator p ON p.oid = m.amopopr
        JOIN pg_namespace n ON n.oid = p.oprnamespace AND n.nspname <> 'pg_catalog'
        WHERE c.opcintype = t.oid AND c.opcdefault
    ) x
) o
CROSS JOIN LATERAL (SELECT CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN 'OPERATOR(pg_catalog.' END AS schema) b
WHERE t.oid = @oid::int8::oid;

-- name: type_name
SELECT coalesce(to_regtype(@name::text)::oid = @oid::int8::oid, false) AS same;

-- name: unique_keys
-- The columns of each unique index by which ON CONFLICT and an insert's refusal can decide about a
-- row. An index that is not valid may lack rows; a deferred one is checked too late; a partial one,
-- or one of an expression, does not see every row by its columns; one that compares in another
-- collation, or by an operator class with another equality, has other duplicates than the column.
-- ON CONFLICT also takes a deferred index of the same columns, and then fails. Columns of INCLUDE
-- do not belong to the key.
SELECT array_to_json(ARRAY(
           SELECT a.attname::text
           FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(att, n)
           JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.att
           WHERE k.n <= i.indnkeyatts
           ORDER BY k.n)) AS columns
FROM pg_index i
WHERE i.indrelid = @oid::int8::oid AND {arbiter};

-- name: arbiter
i.indisunique AND i.indimmediate AND i.indisvalid AND i.indisready AND i.indislive AND NOT i.indisexclusion
AND i.indpred IS NULL AND i.indexprs IS NULL
AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[], i.indcollation::oid[]) WITH ORDINALITY k(att, coll, n)
                JOIN pg_attribute ka ON ka.attrelid = i.indrelid AND ka.attnum = k.att
                WHERE k.n <= i.indnkeyatts AND k.coll <> ka.attcollation
                  AND EXISTS (SELECT FROM pg_collation o WHERE o.oid IN (k.coll, ka.attcollation) AND NOT o.collisdeterministic))
AND NOT EXISTS (SELECT FROM unnest(i.indclass::oid[]) k(class) JOIN pg_opclass c ON c.oid = k.class
                WHERE NOT c.opcdefault
                  AND NOT EXISTS (SELECT FROM pg_amop m
                                  JOIN pg_amop same ON same.amopopr = m.amopopr AND same.amopmethod = m.amopmethod AND same.amopstrategy = 3
                                  JOIN pg_opclass d ON d.opcfamily = same.amopfamily AND d.opcintype = c.opcintype AND d.opcdefault
                                  WHERE m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype AND m.amopstrategy = 3))
AND NOT EXISTS (SELECT FROM pg_index d
                WHERE d.indrelid = i.indrelid AND d.indisunique AND NOT d.indimmediate AND NOT d.indisexclusion AND d.indpred IS NULL AND d.indexprs IS NULL
                  AND (d.indkey::int2[])[0:d.indnkeyatts - 1] <@ (i.indkey::int2[])[0:i.indnkeyatts - 1]
                  AND (d.indkey::int2[])[0:d.indnkeyatts - 1] @> (i.indkey::int2[])[0:i.indnkeyatts - 1]);

-- name: volatile
-- The tables among the target and its partitions that a crash of the server empties.
SELECT c.oid::regclass::text AS name
FROM pg_class c
WHERE c.relpersistence = 'u'
  AND c.oid IN {partitions}
ORDER BY 1;

-- name: partitions
-- The target and its partitions, from the catalogue. pg_partition_tree locks all of them: a
-- promotion would wait for whatever is done to a partition that none of its rows goes to.
(WITH RECURSIVE hr_tree (relid) AS (
    SELECT {target_text}::regclass::oid
    UNION
    SELECT i.inhrelid FROM hr_tree p JOIN pg_class c ON c.oid = p.relid AND c.relkind = 'p' JOIN pg_inherits i ON i.inhparent = c.oid AND NOT i.inhdetachpending
) SELECT relid FROM hr_tree)

-- name: unfit
-- Why a table cannot be a target: a rule rewrites the promotion's insert, so that its counts mean
-- nothing; the rows of a foreign partition commit in a transaction of their own; a trigger that
-- stores the rows in child tables, and returns NULL, would have them in the rejects too; Postgres
-- updates no row of a table that is published without a replica identity.
coalesce((
    SELECT string_agg(what, ', ' ORDER BY what) FROM (
        SELECT format('the rule %I rewrites each INSERT or UPDATE (use a trigger)', r.rulename) AS what
        FROM pg_rewrite r
        WHERE r.ev_class = {target_text}::regclass AND {rule_fires} AND (r.ev_type = '3' OR r.ev_type = '2' AND {replaces})
        UNION ALL
        SELECT format('the partition %s is a foreign table, which commits in a transaction of its own', c.oid::regclass)
        FROM pg_class c
        WHERE c.oid IN {partitions} AND c.relkind = 'f'
        UNION ALL
        SELECT format('the trigger %I may store rows in a child table, where they are found by Config.Key alone, which is not set', g.tgname)
        FROM pg_trigger g
        WHERE cardinality({key_names}) = 0 AND g.tgrelid = {target_text}::regclass
          AND g.tgtype::int & 7 = 7 AND {fires} AND NOT g.tgisinternal
          AND EXISTS (SELECT FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhparent WHERE c.oid = g.tgrelid AND c.relkind = 'r')
        UNION ALL
        SELECT hr_published.what FROM ({unreplaceable}) hr_published WHERE {replaces}
    ) hr_unfit
), '')

-- name: unfit_target
SELECT {unfit} AS unfit, {closed} AS closed;

-- name: closed
-- Row-level security without a policy for this role's inserts refuses every row.
(row_security_active({target_text}::regclass)
 AND NOT EXISTS (SELECT FROM pg_policy y
                 WHERE y.polrelid = {target_text}::regclass AND y.polpermissive AND y.polcmd IN ('*', 'a')
                   AND EXISTS (SELECT FROM unnest(y.polroles) r(oid) WHERE r.oid = 0 OR pg_has_role(r.oid, 'USAGE'))))

-- name: refers_to_itself
SELECT conname::text AS name FROM pg_constraint
WHERE contype = 'f' AND conrelid = {target_text}::regclass AND confrelid = conrelid
ORDER BY 1;

-- name: search_path
SELECT current_setting('search_path') AS path;

-- name: omitted_sequences
-- The sequences that fill columns which this program leaves out: an insert needs USAGE on them. An
-- identity needs nothing.
SELECT DISTINCT d.refobjid::regclass::text AS name
FROM pg_attrdef f
JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'
WHERE f.adrelid = {target_text}::regclass AND a.attname <> ALL({column_names});

-- name: omitted_defaults
-- The defaults of the columns that this program leaves out, as an insert evaluates them.
SELECT a.attname::text AS name, format('(%s)::%s', pg_get_expr(f.adbin, f.adrelid), format_type(a.atttypid, a.atttypmod)) AS value
FROM pg_attrdef f
JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
WHERE f.adrelid = {target_text}::regclass AND a.attgenerated = '' AND a.attname <> ALL({column_names})
ORDER BY a.attnum;

-- name: called_functions
-- The functions that an insert calls with this role's privileges, and that not everyone may call:
-- in defaults of columns that this program leaves out, in generated columns, constraints, indexes,
-- policies and domains. A COPY into a staging table calls those of domains too. (conenforced is new
-- in PostgreSQL 18.) A trigger calls its function with no privilege.
WITH RECURSIVE tables(oid) AS (
    SELECT {target_text}::regclass::oid
    UNION SELECT i.inhrelid FROM pg_inherits i JOIN tables t ON t.oid = i.inhparent
), types(oid) AS (
    SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = {target_text}::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = ANY({column_names})
    UNION SELECT b.oid FROM types JOIN pg_type y ON y.oid = types.oid CROSS JOIN LATERAL (VALUES (y.typbasetype), (y.typelem)) b(oid) WHERE b.oid <> 0
), callers(classid, objid, copied) AS (
    SELECT 'pg_attrdef'::regclass, f.oid, false FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
    WHERE f.adrelid = {target_text}::regclass AND a.attname <> ALL({column_names}) AND a.attgenerated <> 'v'
    UNION ALL
    SELECT 'pg_constraint'::regclass, c.oid, c.contypid <> 0 FROM pg_constraint c
    WHERE c.contype = 'c' AND (c.conrelid IN (SELECT oid FROM tables) OR c.contypid IN (SELECT oid FROM types))
      AND to_jsonb(c)->'conenforced' IS DISTINCT FROM 'false'
    UNION ALL
    SELECT 'pg_class'::regclass, x.indexrelid, false FROM pg_index x WHERE x.indrelid IN (SELECT oid FROM tables) AND x.indisready
    UNION ALL
    SELECT 'pg_policy'::regclass, y.oid, false FROM pg_policy y
    WHERE y.polrelid = {target_text}::regclass AND y.polcmd IN ('*', 'a') AND row_security_active(y.polrelid)
      AND EXISTS (SELECT FROM unnest(y.polroles) r(oid) WHERE r.oid = 0 OR pg_has_role(r.oid, 'USAGE'))
)
SELECT o.identity AS name, p.oid::text AS oid, bool_or(c.copied) AS copied
FROM callers c
JOIN pg_depend d ON d.classid = c.classid AND d.objid = c.objid AND d.refclassid = 'pg_proc'::regclass
JOIN pg_proc p ON p.oid = d.refobjid
CROSS JOIN LATERAL pg_identify_object('pg_proc'::regclass, p.oid, 0) o
WHERE NOT EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE')
GROUP BY 1, 2
ORDER BY 1;

-- name: missing_tables
SELECT w.name
FROM unnest(@names::text::text[]) WITH ORDINALITY w(name, i)
WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE n.nspname = @schema::text AND c.relname = w.name)
ORDER BY w.i;

-- name: install_lock
-- Ends with the transaction, so it works through PgBouncer too.
SELECT pg_advisory_xact_lock(hashtext('headrace.staging'));

-- name: layout
SELECT coalesce(obj_description({control_text}::regclass, 'pg_class'), '') AS layout;

-- name: control
SELECT target, open FROM {control};

-- name: current_role
SELECT current_user::text AS role;

-- name: has_table_privilege
SELECT coalesce(has_table_privilege(to_regclass(@object::text)::oid, @privilege::text), true) AS has;

-- name: has_sequence_privilege
SELECT coalesce(has_sequence_privilege(to_regclass(@object::text)::oid, @privilege::text), true) AS has;

-- name: has_function_privilege
SELECT coalesce(has_function_privilege(@object::text::oid, @privilege::text), true) AS has;

-- name: hidden_rows
-- The companion tables of which row-level security hides rows from this role: without a
-- policy that shows them all, an empty table cannot be told from one whose rows are hidden.
SELECT c.oid::regclass::text AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = @schema::text AND c.relname = ANY(@names::text::text[])
  AND row_security_active(c.oid)
  AND NOT EXISTS (SELECT FROM pg_policy p
                  WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('*', 'r') AND pg_get_expr(p.polqual, p.polrelid) = 'true'
                    AND EXISTS (SELECT FROM unnest(p.polroles) r(oid) WHERE r.oid = 0 OR pg_has_role(r.oid, 'USAGE')))
ORDER BY 1;

-- name: has_schema_create
-- A table is made in the tablespace of default_tablespace, which needs a privilege too, unless it
-- is that of the database.
SELECT has_schema_privilege(@schema::text, 'CREATE') AS has,
       coalesce((SELECT quote_ident(s.spcname) FROM pg_tablespace s JOIN pg_database d ON d.datname = current_database()
                 WHERE s.spcname = current_setting('default_tablespace') AND s.oid <> d.dattablespace
                   AND NOT has_tablespace_privilege(s.oid, 'CREATE')), '') AS tablespace;

-- name: primary_key
-- The column of the primary key, if it has one only.
SELECT min(a.attname)::text AS id
FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[])
WHERE i.indrelid = {target_text}::regclass AND i.indisprimary AND array_position(i.indkey::int2[], a.attnum) < i.indnkeyatts
HAVING count(*) = 1;

-- name: strange_companions
-- The columns that those of the tables lack that exist.
SELECT w.name, w.col, w.type
FROM unnest({tables}, {columns}, {types}) WITH ORDINALITY AS w (name, col, type, n)
WHERE to_regclass(w.name) IS NOT NULL
  AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(w.name) AND a.attname = w.col AND a.attnum > 0 AND NOT a.attisdropped)
ORDER BY w.name, w.n;
