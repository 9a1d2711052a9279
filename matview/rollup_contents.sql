-- Whether the role sees all rows of the tables $1 (quoted).
SELECT NOT EXISTS (
    SELECT FROM unnest($1::text[]) t (ident)
    WHERE row_security_active(to_regclass(t.ident)) OR NOT has_table_privilege(to_regclass(t.ident)::oid, 'SELECT')
)
