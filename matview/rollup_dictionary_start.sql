-- The numbers of an empty dictionary begin anywhere, so that they are not those of a dictionary
-- that was lost: the sets of another roll-up may still hold them. 4398046511104 is 2^42.
SELECT setval(pg_get_serial_sequence({name}, 'headrace_number'), (random() * 4398046511104::float8)::bigint * {width}, false)
WHERE NOT EXISTS (SELECT FROM {table});
