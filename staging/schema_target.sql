-- The tables that belong to one target. Every statement may run again; they run under an advisory
-- lock.
CREATE TABLE IF NOT EXISTS {ledger} (
    id           uuid        PRIMARY KEY,
    kind         text        NOT NULL CHECK (kind IN ('promoted', 'void')),
    root         uuid        NOT NULL,
    root_offset  integer     NOT NULL,
    records      integer     NOT NULL,
    kept         integer     NOT NULL DEFAULT 0,
    duplicates   integer     NOT NULL DEFAULT 0,
    filtered     integer     NOT NULL DEFAULT 0,
    rejected     integer     NOT NULL DEFAULT 0,
    staged       integer     NOT NULL DEFAULT 0, -- rows of the kept = promoted + conflicts + ruled
    promoted     integer     NOT NULL DEFAULT 0,
    conflicts    integer     NOT NULL DEFAULT 0,
    ruled        integer     NOT NULL DEFAULT 0,
    attempt      bigint      NOT NULL DEFAULT 0,
    worker       text        NOT NULL DEFAULT '',
    sealed_at    timestamptz NOT NULL,
    staged_at    timestamptz,
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tables       text,                           -- of the group that promoted the batch; '': this table alone; NULL: an older layout
    stages       text                            -- what each stage of the chain dropped, as in the registry
);
CREATE INDEX IF NOT EXISTS {ledger_at} ON {ledger} USING brin (committed_at);
-- Only the parts of split batches are in it.
CREATE INDEX IF NOT EXISTS {ledger_root} ON {ledger} (root) WHERE root <> id;

CREATE TABLE IF NOT EXISTS {rejects} (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch       uuid        NOT NULL,
    root        uuid        NOT NULL,
    place       integer     NOT NULL,
    pos         integer     NOT NULL,
    whole       boolean     NOT NULL, -- every row of the record was rejected
    source      text        NOT NULL CHECK (source IN ('stage', 'rule', 'insert', 'group')),
    key         text        NOT NULL,
    code        text        NOT NULL,
    reason      text        NOT NULL,
    payload     text,                 -- the record as it was rejected before it was staged
    bytes       bytea,                -- in its place: the same of a record that is no text
    row         json,                 -- the row as it was staged (jsonb would refuse some values of json columns)
    rejected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at timestamptz,          -- corrected and replayed, or given up
    tables      text        NOT NULL DEFAULT '' -- of the group that promoted the batch; '': this table alone
);
CREATE INDEX IF NOT EXISTS {rejects_batch} ON {rejects} (batch);
-- A hash: a key may be longer than an entry of a B-tree.
CREATE INDEX IF NOT EXISTS {rejects_key} ON {rejects} USING hash (key) WHERE key <> '';

-- How many rejects each code has: the sum over its rows. Each statement that writes rejects adds a
-- row, so none waits for another. A promotion joins the rows when they are many.
CREATE TABLE IF NOT EXISTS {reject_counts} (
    code     text   NOT NULL,
    open     bigint NOT NULL,
    resolved bigint NOT NULL
);
-- Its rows are deleted, and without a key a publication of deletes would refuse that.
ALTER TABLE {reject_counts} REPLICA IDENTITY FULL;

CREATE TABLE IF NOT EXISTS {control} (
    one    boolean     PRIMARY KEY DEFAULT true CHECK (one),
    target text        NOT NULL,
    open   text        NOT NULL DEFAULT 'a' CHECK (open ~ '^[ab]+r*$'), -- the open side of each lane; r: retired
    floor  timestamptz NOT NULL DEFAULT '-infinity',
    pruned jsonb DEFAULT '{}', -- the sums of the ledger rows that were pruned; NULL: not known
    failed_since timestamptz, -- since when no promotion has succeeded; NULL after a success
    failures     integer     NOT NULL DEFAULT 0,
    failure      text,       -- the last error
    failed_lane  integer     NOT NULL DEFAULT 1 -- where it was
);
COMMENT ON TABLE {control} IS {layout};
INSERT INTO {control} (target) VALUES ({target_text}) ON CONFLICT DO NOTHING;

CREATE UNLOGGED TABLE IF NOT EXISTS {epoch} (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch text    NOT NULL DEFAULT gen_random_uuid()::text,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
