-- The hashes of the values of an expression. Unlike their texts, they do not depend on the session.
SELECT array_agg(hash_record_extended(ROW({expr}), 0))::text
FROM ({from}) AS promoted
