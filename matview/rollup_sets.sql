SELECT {known_keys}, {chunk}, {bits}, bit_count({bits})
FROM {known}
GROUP BY {key_ordinals}
