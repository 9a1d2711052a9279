-- Recomputes what no longer follows from the old value and the new rows, and deletes the groups
-- that have no rows left. Groups whose key has a NULL have a query of their own, because a join on
-- IS NOT DISTINCT FROM uses no index and no hash table.
WITH stale AS MATERIALIZED (
    SELECT {stale_keys} FROM {rollup} WHERE {stale} AND {rows} > 0
), deleted AS (
    {delete}
), fresh AS (
    SELECT {group_keys}, {aggregates}
    FROM {from} AS promoted JOIN stale g ON {equal}
    GROUP BY {key_ordinals}
    UNION ALL
    SELECT {null_keys}, {aggregates}
    FROM {from} AS promoted
    WHERE (SELECT bool_or({stale_null}) FROM stale) AND ({is_null}) AND EXISTS (SELECT FROM stale g WHERE {same})
    GROUP BY {key_ordinals}
)
UPDATE {rollup} AS r SET {set}, {stale} = false
FROM fresh
WHERE r.{stale} AND {same_key}
