-- The number of each value, NULL if it has none yet. Numbers of a small table are joined, which
-- Postgres does by hashing all of it; of a large one they are looked up one by one. The planner
-- would hash millions of numbers for the values of one promotion.
SELECT p.*, n.headrace_number
FROM (SELECT {key_exprs}, {value} FROM {from} AS promoted WHERE ({expr}) IS NOT NULL) p
LEFT JOIN {values} n ON n.headrace_value = p.headrace_value
WHERE {small}
UNION ALL
SELECT p.*, (SELECT n.headrace_number FROM {values} n WHERE n.headrace_value = p.headrace_value)
FROM (SELECT {key_exprs}, {value} FROM {from} AS promoted WHERE ({expr}) IS NOT NULL) p
WHERE NOT {small}
