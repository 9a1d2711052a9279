SELECT {columns}
FROM {from}
GROUP BY {key_ordinals}
