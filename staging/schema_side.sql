-- One side: the rows, the registry of their batches, the refused records. UNLOGGED, so a crash
-- empties the three together. Truncated by every promotion, so autovacuum has nothing to do there
-- and would only delay the promoter's lock.
CREATE UNLOGGED TABLE IF NOT EXISTS {registry} (
    id          uuid        PRIMARY KEY,
    no          integer     NOT NULL GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME {numbers} CYCLE),
    root        uuid        NOT NULL,
    root_offset integer     NOT NULL,
    records     integer     NOT NULL,
    kept        integer     NOT NULL,
    duplicates  integer     NOT NULL,
    filtered    integer     NOT NULL,
    rejected    integer     NOT NULL,
    rows        integer     NOT NULL,
    attempt     bigint      NOT NULL,
    worker      text        NOT NULL,
    sealed_at   timestamptz NOT NULL,
    staged_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    tables      text        NOT NULL DEFAULT '', -- of the group that staged the batch, its leader first
    stages      text        NOT NULL DEFAULT ''  -- what each stage of the chain dropped: name, duplicates, filtered, rejected
) WITH (autovacuum_enabled = false);
-- The numbers are logged: a standby of PostgreSQL 15 that is promoted before its first checkpoint
-- after the CREATE has an unlogged sequence of zeros, which nothing can read.
ALTER SEQUENCE IF EXISTS {numbers} SET LOGGED;
CREATE UNLOGGED TABLE IF NOT EXISTS {staging} (
    hr_record bigint, -- in front, because Postgres walks over all columns before the one that it counts by
    {columns}
) WITH (autovacuum_enabled = false);
CREATE UNLOGGED TABLE IF NOT EXISTS {refused} (
    hr_batch integer NOT NULL,
    pos      integer NOT NULL,
    key      text    NOT NULL,
    code     text    NOT NULL,
    reason   text    NOT NULL,
    payload  text,
    bytes    bytea
) WITH (autovacuum_enabled = false);

-- name: grow_lanes
-- The control row has a letter for each lane: the side that is open, or r for a retired lane.
UPDATE {control} SET open = rpad(translate(left(open, {lanes}), 'r', 'a'), {lanes}, 'a') || substr(open, {lanes} + 1)
WHERE length(rtrim(open, 'r')) < {lanes};

-- name: retire_lanes
-- No batch is staged into the lanes behind the first ones any more.
UPDATE {control} SET open = left(open, {lanes}) || repeat('r', length(open) - {lanes}) WHERE length(rtrim(open, 'r')) > {lanes};

-- name: forget_lanes
-- The tables of the lanes behind the first ones are gone, and so is what failed there.
UPDATE {control}
SET open = left(open, {lanes}),
    failed_since = CASE WHEN failed_lane <= {lanes} THEN failed_since END,
    failures = CASE WHEN failed_lane <= {lanes} THEN failures ELSE 0 END,
    failure = CASE WHEN failed_lane <= {lanes} THEN failure END;

-- name: group_batches
-- Whether this table has batches of a group: in a registry, or among the youngest of its ledger,
-- whose ids rise with time.
SELECT EXISTS (SELECT FROM {registry_a} WHERE tables <> '') OR EXISTS (SELECT FROM {registry_b} WHERE tables <> '')
       OR EXISTS (SELECT FROM (SELECT tables FROM {ledger} ORDER BY id DESC LIMIT 1000) l WHERE tables <> '') AS any;
