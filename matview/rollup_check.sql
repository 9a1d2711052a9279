-- One statement is one snapshot. A group that differs gives one row or two; the limit is one more
-- than two for each difference, so that the last one is whole.
WITH have AS MATERIALIZED (
    SELECT {columns} FROM {rollup}
), want AS MATERIALIZED (
    {groups}
), differences AS (
    SELECT true AS headrace_have, h.* FROM (SELECT {columns} FROM have EXCEPT ALL SELECT {columns} FROM want) h
    UNION ALL
    SELECT false, w.* FROM (SELECT {columns} FROM want EXCEPT ALL SELECT {columns} FROM have) w
)
SELECT headrace_have, ARRAY[{texts}]
FROM differences
ORDER BY {keys}, headrace_have
LIMIT {limit}
