SELECT DISTINCT {keys}, {value}
FROM {from} AS promoted
WHERE ({expr}) IS DISTINCT FROM NULL
