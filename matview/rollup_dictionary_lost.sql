-- Whether some of the sets hold a number without a value.
SELECT EXISTS (
    SELECT FROM (SELECT headrace_chunk, headrace_bits FROM {sets} LIMIT 16) s
    CROSS JOIN generate_series(0, {width} - 1) b (headrace_bit)
    WHERE get_bit(s.headrace_bits, headrace_bit) = 1
        AND NOT EXISTS (SELECT FROM {values} n WHERE n.headrace_number = s.headrace_chunk * {width} + headrace_bit)
)
