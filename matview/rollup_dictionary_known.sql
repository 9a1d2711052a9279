-- A new value meets its number in a window: the planner knows neither how many rows a promotion has
-- nor how many values are new, and might join the two by comparing each with each.
SELECT {keys}, headrace_number FROM {found} WHERE headrace_number IS NOT NULL
UNION ALL
SELECT {keys}, headrace_number
FROM (
    SELECT {keys}, headrace_found, max(headrace_number) OVER (PARTITION BY headrace_value) AS headrace_number
    FROM (
        SELECT {keys}, headrace_value, NULL::bigint AS headrace_number, true AS headrace_found
        FROM {found} WHERE headrace_number IS NULL
        UNION ALL
        SELECT {nulls}, headrace_value, headrace_number, false FROM {numbered}
    ) x
) x
WHERE headrace_found
