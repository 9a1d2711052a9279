SELECT {keys}, {chunk} AS headrace_chunk, {bits} AS headrace_bits, 0::bigint AS headrace_change
FROM (SELECT {key_exprs}, {value} FROM {from} AS promoted WHERE ({expr}) IS DISTINCT FROM NULL) p
JOIN {values} n ON n.headrace_value OPERATOR(pg_catalog.=) p.headrace_value
GROUP BY {key_ordinals}
