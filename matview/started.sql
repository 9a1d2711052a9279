-- When a run begins: by the clock, and by a transaction id. Ids are assigned in order, whatever the
-- clock does.
SELECT clock_timestamp(), pg_current_xact_id()::text
