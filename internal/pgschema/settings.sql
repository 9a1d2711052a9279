SELECT set_config('statement_timeout', coalesce(nullif($1::text, ''), current_setting('statement_timeout')), true),
    set_config('lock_timeout', coalesce(nullif($2::text, ''), current_setting('lock_timeout')), true),
    set_config('idle_in_transaction_session_timeout', coalesce(nullif($3::text, ''), current_setting('idle_in_transaction_session_timeout')), true),
    set_config('quote_all_identifiers', 'off', true),
    set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'off' ELSE 'local' END, true),
    CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL THEN set_config('transaction_timeout', '0', true) END
