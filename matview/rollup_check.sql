-- One statement is one snapshot. A group that differs gives one row or two; the limit is one more
-- than two for each difference, so that the last one is whole.
WITH have AS MATERIALIZED (
    SELECT {columns} FROM {table} WHERE {live}
), want AS MATERIALIZED (
    {query}
), differences AS (
    SELECT true AS headrace_have, h.* FROM (SELECT {columns} FROM have EXCEPT ALL SELECT {columns} FROM want) h
    UNION ALL
    SELECT false, w.* FROM (SELECT {columns} FROM want EXCEPT ALL SELECT {columns} FROM have) w
)
SELECT dense_rank() OVER (ORDER BY {keys}) AS headrace_group, headrace_have, ARRAY[{texts}]
FROM differences
ORDER BY 1, headrace_have
LIMIT {limit}
