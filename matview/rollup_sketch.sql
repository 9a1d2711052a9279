-- 1125899906842624 is 2^50.
bit_or(set_bit(B'0'::{type},
    ((hash_record_extended(ROW({value}), 0::bigint) & {mask}::bigint) * {ranks} + least({ranks} - 1,
        floor(-ln((((hash_record_extended(ROW({value}), 0::bigint) >> {shift}) & 1125899906842623) + 1)::float8 / 1125899906842624::float8)
            / ln(2::float8)))::int)::int,
    1)) FILTER (WHERE {value} IS DISTINCT FROM NULL AND {condition})
