-- name: own_settings
-- What a transaction takes over, whatever the server, the database, the role or
-- the pool set. An empty value leaves a setting as it is.
--
-- The client's encoding: Go's strings are UTF-8, and a session in a LATIN1 database would take
-- their bytes for LATIN1. The time limits: a statement and a transaction have none, because a
-- promotion has a limit of its own. The search path is that of New: rules, merges and the text of
-- constraints go on meaning what New has checked. The formats of dates, intervals, floating-point
-- numbers and bytea are Postgres' defaults, in which no value of a reject loses anything. TimeZone
-- and the order of day and month in input stay the session's: they are part of what rules, triggers
-- and defaults mean. The commit waits for nothing where nothing has to survive a crash, as in the
-- staging tables: an absent standby must not hold up workers.
SELECT set_config('client_encoding', 'UTF8', true),
       set_config('lock_timeout', @lock_timeout::text, true),
       set_config('idle_in_transaction_session_timeout', @idle_timeout::text, true),
       set_config('statement_timeout', '0', true),
       CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL THEN set_config('transaction_timeout', '0', true) END,
       set_config('search_path', coalesce(nullif(@search_path::text, ''), current_setting('search_path')), true),
       set_config('DateStyle', 'ISO', true),
       set_config('IntervalStyle', 'postgres', true),
       set_config('extra_float_digits', '1', true),
       set_config('bytea_output', 'hex', true),
       set_config('standard_conforming_strings', 'on', true),
       set_config('quote_all_identifiers', 'off', true),
       set_config('row_security', 'on', true),
       set_config('exit_on_error', 'off', true),
       set_config('synchronous_commit', coalesce(nullif(@commit::text, ''), current_setting('synchronous_commit')), true);

-- name: own_durability
-- An acknowledgement must never outlive a commit that was lost. A server that
-- waits for its standbys goes on doing so. That the wait was cancelled is a warning.
SELECT set_config('synchronous_commit',
                  CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN 'on'
                       ELSE current_setting('synchronous_commit') END, true),
       CASE WHEN current_setting('client_min_messages') = 'error' THEN set_config('client_min_messages', 'warning', true) END;

-- name: standby_names
SELECT current_setting('synchronous_standby_names') AS names;

-- name: barrier
-- A commit that has written nothing does not wait for the standbys. This one does, and so proves
-- that they have everything before it.
SELECT pg_logical_emit_message(true, 'headrace', '') IS NOT NULL AS emitted WHERE current_setting('synchronous_standby_names') <> '';

-- name: own_memory
-- A promotion sorts its rows, and Postgres' default of 4 MB would send 20,000 of them to disk.
SELECT set_config('work_mem', '64MB', true) WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('64MB');

-- name: own_plans
-- A promotion looks rows of the target up by their key. A planner that knows a table as it was when
-- it was small, or not at all, would read it whole, or read it whole for each key. The staging
-- tables have no index, so their scans then count as very expensive, and the server would compile
-- the statement (jit) for seconds before it ran.
SELECT set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true);

-- name: own_times
SELECT set_config('lock_timeout', @lock_timeout::text, true), set_config('statement_timeout', @statement_timeout::text, true);

-- name: own_lock_timeout
SELECT set_config('lock_timeout', @lock_timeout::text, true);
