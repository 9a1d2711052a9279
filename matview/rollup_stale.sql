CREATE INDEX ON {table} ({stale}) WHERE {stale};
