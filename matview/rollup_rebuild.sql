-- EXCEPT finds the rows that are gone: it takes two NULLs for equal. So does the comparison of
-- whole rows, which a merge join can do.
WITH fresh AS MATERIALIZED (
    {query}
), gone AS (
    SELECT ROW({keys}) AS gone_key FROM (SELECT {keys} FROM {table} EXCEPT SELECT {keys} FROM fresh) g
), deleted AS (
    DELETE FROM {table} AS r USING gone WHERE ROW({r_keys}) OPERATOR(pg_catalog.=) gone.gone_key RETURNING 1
), written AS (
    {upsert} RETURNING 1
)
SELECT (SELECT count(*) FROM deleted) + (SELECT count(*) FROM written)
