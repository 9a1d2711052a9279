-- name: lock_registry
LOCK TABLE {registry}, {staging} IN ACCESS EXCLUSIVE MODE;

-- name: registry_full
SELECT EXISTS (SELECT FROM {registry}) AS full;

-- name: column_checks
-- The constraints on a column, which another layout may have otherwise.
SELECT c.conname::text AS name
FROM pg_constraint c
WHERE c.conrelid = to_regclass(@table::text) AND c.contype = 'c'
  AND c.conkey = ARRAY(SELECT attnum FROM pg_attribute WHERE attrelid = c.conrelid AND attname = @column::text);

-- name: upgrade
-- Brings the tables of an older layout to that of this program, whichever it was. Every statement
-- may run again. They run as one transaction, with the programs stopped.
ALTER TABLE {refused_a} ADD COLUMN IF NOT EXISTS bytes bytea;
ALTER TABLE {refused_b} ADD COLUMN IF NOT EXISTS bytes bytea;
ALTER TABLE {registry_a} ADD COLUMN IF NOT EXISTS tables text NOT NULL DEFAULT '', ADD COLUMN IF NOT EXISTS stages text NOT NULL DEFAULT '';
ALTER TABLE {registry_b} ADD COLUMN IF NOT EXISTS tables text NOT NULL DEFAULT '', ADD COLUMN IF NOT EXISTS stages text NOT NULL DEFAULT '';
ALTER TABLE {ledger} ADD COLUMN IF NOT EXISTS tables text, ADD COLUMN IF NOT EXISTS stages text;
ALTER TABLE {rejects} ADD COLUMN IF NOT EXISTS bytes bytea, ADD COLUMN IF NOT EXISTS row json,
    ADD COLUMN IF NOT EXISTS tables text NOT NULL DEFAULT ''{drop_source_checks},
    ADD CHECK (source IN ('stage', 'rule', 'insert', 'group'));
ALTER TABLE {control} ADD COLUMN IF NOT EXISTS failed_since timestamptz,
    ADD COLUMN IF NOT EXISTS failures integer NOT NULL DEFAULT 0, ADD COLUMN IF NOT EXISTS failure text,
    ADD COLUMN IF NOT EXISTS failed_lane integer NOT NULL DEFAULT 1, ADD COLUMN IF NOT EXISTS pruned jsonb{drop_open_checks}, ADD CHECK (open ~ '^[ab]+r*$');
{create};
ALTER TABLE {control} ALTER COLUMN pruned SET DEFAULT '{}';
UPDATE {control} SET pruned = '{}' WHERE pruned IS NULL AND floor = '-infinity';
TRUNCATE {reject_counts};
INSERT INTO {reject_counts} (code, open, resolved)
SELECT code, count(*) FILTER (WHERE resolved_at IS NULL), count(resolved_at) FROM {rejects} GROUP BY code
