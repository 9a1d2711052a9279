-- The collations of the columns $2 of the table $1 (quoted), and those that the definition gives
-- them, in the same order. NULL for a type without one.
SELECT ARRAY(
    SELECT CASE WHEN a.attcollation <> 0 THEN a.attcollation::regcollation::text END
    FROM unnest($2::text[]) WITH ORDINALITY c (name, i)
    JOIN pg_attribute a ON a.attrelid = to_regclass($1) AND a.attname = c.name
    ORDER BY c.i
), ARRAY[{collations}]::text[]
