INSERT INTO {values} (headrace_value)
SELECT DISTINCT v.headrace_value
FROM (SELECT {value} FROM {from} AS promoted WHERE ({expr}) IS DISTINCT FROM NULL) v
WHERE NOT EXISTS (SELECT FROM {values} n WHERE n.headrace_value OPERATOR(pg_catalog.=) v.headrace_value)
ORDER BY 1
ON CONFLICT (headrace_value) DO NOTHING
