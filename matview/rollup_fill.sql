-- NOT MATERIALIZED: the rows are read once for each merge, instead of being copied to disk.
WITH promoted AS NOT MATERIALIZED (
    SELECT * FROM {from} WHERE {empty}
), replaced AS NOT MATERIALIZED (
    SELECT * FROM {from} WHERE false
), {merges}
SELECT count(*) FROM {main}
