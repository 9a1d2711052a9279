SELECT {keys}, {value}, count(*), 0, false
FROM {from} AS promoted
WHERE ({expr}) IS DISTINCT FROM NULL
GROUP BY {key_ordinals}
