INSERT INTO {state} AS s (name, view, definition)
VALUES ({name}, {view}::regclass, {definition})
ON CONFLICT (name) DO UPDATE SET view = excluded.view, definition = excluded.definition,
    version = CASE WHEN s.view = excluded.view THEN s.version END,
    started = CASE WHEN s.view = excluded.view THEN s.started END;
