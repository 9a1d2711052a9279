-- The update returns the number that another promotion has given to a value meanwhile.
INSERT INTO {values} AS r (headrace_value)
SELECT DISTINCT headrace_value FROM {found} WHERE headrace_number IS NULL ORDER BY 1
ON CONFLICT (headrace_value) DO UPDATE SET headrace_value = r.headrace_value
RETURNING headrace_number, headrace_value
