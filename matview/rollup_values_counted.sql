-- A change of zero would be a write for nothing.
SELECT {keys}, {value}, sum({sign}), sum({sign}), false
FROM {changes} AS changes
WHERE {column} IS DISTINCT FROM NULL
GROUP BY {key_ordinals}
HAVING sum({sign}) <> 0
