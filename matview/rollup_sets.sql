SELECT {keys}, {chunk}, {bits}, bit_count({bits})
FROM (
    SELECT {keys}, headrace_number FROM {found} WHERE headrace_number IS NOT NULL
    UNION ALL
    SELECT {found_keys}, n.headrace_number
    FROM {found} f JOIN {numbered} n ON n.headrace_value = f.headrace_value
    WHERE f.headrace_number IS NULL
) x
GROUP BY {key_ordinals}
