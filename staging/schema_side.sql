-- One side: the rows, the registry of their batches, the refused records. UNLOGGED, so a crash
-- empties the three together. Truncated by every promotion, so autovacuum has nothing to do there
-- and would only delay the promoter's lock.
CREATE UNLOGGED TABLE IF NOT EXISTS {registry} (
    id          uuid        PRIMARY KEY,
    no          integer     NOT NULL GENERATED ALWAYS AS IDENTITY (CYCLE),
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
-- The control row has a letter for each lane: the side that is open.
UPDATE {control} SET open = rpad(open, {lanes}, 'a') WHERE length(open) < {lanes};
