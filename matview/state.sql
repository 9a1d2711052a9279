CREATE TABLE {state} (
    name         text PRIMARY KEY,
    view         oid NOT NULL,  -- a view that was dropped and created again has another one
    definition   text NOT NULL, -- the query as the program gave it, '' for a view that no program has compared with one
    version      text,          -- the caller's token at the last refresh
    started      xid8,          -- a transaction id that was assigned when the run of the last refresh began
    as_of        timestamptz,   -- the view holds what was committed before
    refreshed_at timestamptz,
    took         interval,
    refreshes    bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE {state} IS '{layout}';
