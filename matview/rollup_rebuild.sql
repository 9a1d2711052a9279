-- EXCEPT finds the groups that are gone: it hashes, and takes two NULLs for equal. A join on IS NOT
-- DISTINCT FROM does not hash, but it joins only those.
WITH fresh AS MATERIALIZED (
    {groups}
), gone AS (
    SELECT {keys} FROM {rollup} EXCEPT SELECT {keys} FROM fresh
), deleted AS (
    DELETE FROM {rollup} AS r USING gone WHERE {same_key} RETURNING 1
), written AS (
    {upsert} RETURNING 1
)
SELECT (SELECT count(*) FROM deleted) + (SELECT count(*) FROM written)
