INSERT INTO {rollup} AS r ({columns})
{query}
ORDER BY {key_ordinals}
ON CONFLICT ({keys}) DO UPDATE SET {set}
{where}
