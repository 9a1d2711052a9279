-- One statement is one snapshot. Sets are compared as they are stored; only those that differ are
-- read value by value. A bit whose number has no value is a difference, and so is a value without
-- a number.
WITH wanted AS MATERIALIZED (
    SELECT DISTINCT {keys}, p.headrace_value, n.headrace_number
    FROM (SELECT {key_exprs}, {value} FROM {from} AS promoted WHERE ({expr}) IS DISTINCT FROM NULL) p
    LEFT JOIN {values} n ON n.headrace_value OPERATOR(pg_catalog.=) p.headrace_value
), want AS MATERIALIZED (
    SELECT {keys}, {chunk} AS headrace_chunk, {bits} AS headrace_bits
    FROM wanted WHERE headrace_number IS NOT NULL GROUP BY {key_ordinals}
), stored AS (
    SELECT {keys}, headrace_chunk, headrace_bits FROM {table}
), sets AS (
    SELECT true AS headrace_have, h.* FROM (TABLE stored EXCEPT ALL TABLE want) h
    UNION ALL
    SELECT false, w.* FROM (TABLE want EXCEPT ALL TABLE stored) w
), members AS MATERIALIZED (
    SELECT headrace_have, {keys}, n.headrace_value
    FROM sets s
    CROSS JOIN generate_series(0, {width} - 1) b (headrace_bit)
    LEFT JOIN {values} n ON n.headrace_number = s.headrace_chunk * {width} + headrace_bit
    WHERE get_bit(s.headrace_bits, headrace_bit) = 1
    UNION ALL
    SELECT false, {keys}, headrace_value FROM wanted WHERE headrace_number IS NULL
), have_values AS (
    SELECT {columns} FROM members WHERE headrace_have
), want_values AS (
    SELECT {columns} FROM members WHERE NOT headrace_have
), differences AS (
    SELECT true AS headrace_have, h.* FROM (TABLE have_values EXCEPT ALL TABLE want_values) h
    UNION ALL
    SELECT false, w.* FROM (TABLE want_values EXCEPT ALL TABLE have_values) w
)
SELECT dense_rank() OVER (ORDER BY {columns}) AS headrace_group, headrace_have, ARRAY[{texts}]
FROM differences
ORDER BY 1, headrace_have
LIMIT {limit}
