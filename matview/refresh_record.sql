-- The definition is what New has compared with the view. A view that was made by hand since then
-- has none.
INSERT INTO {state} AS s (name, view, definition, version, as_of, started, refreshed_at, took, refreshes)
VALUES ($1, $2, '', $3, $4, $5::text::xid8, clock_timestamp(), $6, 1)
ON CONFLICT (name) DO UPDATE SET view = excluded.view, definition = CASE WHEN s.view = excluded.view THEN s.definition ELSE '' END,
    version = excluded.version, as_of = excluded.as_of, started = excluded.started, refreshed_at = excluded.refreshed_at, took = excluded.took,
    refreshes = s.refreshes + 1
