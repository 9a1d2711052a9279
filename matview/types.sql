-- The names of the types $1 with the modifiers $2.
SELECT format_type(t.oid, t.modifier) FROM unnest($1::oid[], $2::int[]) WITH ORDINALITY t (oid, modifier, i) ORDER BY t.i
