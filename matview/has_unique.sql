-- Whether the relation $1 has a plain unique index, as REFRESH … CONCURRENTLY and ON CONFLICT need
-- it, on the columns $2 (sorted, in any order in the index). With $3 it must take two NULLs for
-- equal.
SELECT EXISTS (
    SELECT FROM pg_index x
    WHERE x.indrelid = to_regclass($1) AND x.indisunique AND x.indisvalid AND x.indimmediate AND x.indpred IS NULL AND x.indexprs IS NULL
        AND (x.indnullsnotdistinct OR NOT $3)
        AND $2::text[] OPERATOR(pg_catalog.=) (
            SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C")
            FROM pg_attribute a
            WHERE a.attrelid = x.indrelid AND a.attnum = ANY ((string_to_array(x.indkey::text, ' ')::int2[])[1:x.indnkeyatts])
        )
)
