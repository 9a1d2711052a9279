INSERT INTO {table} AS r ({columns})
{query}
ORDER BY {key_ordinals}
ON CONFLICT ({keys}) DO {action}
