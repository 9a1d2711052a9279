-- The role, and the tables among $1 (quoted) of which row-level security may hide rows from it: no
-- policy shows them all.
SELECT current_user::text, ARRAY(
    SELECT t.ident
    FROM unnest($1::text[]) WITH ORDINALITY t (ident, i)
    WHERE row_security_active(to_regclass(t.ident))
        AND (
            EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = to_regclass(t.ident) AND NOT p.polpermissive)
            OR NOT EXISTS (
                SELECT FROM pg_policy p
                WHERE p.polrelid = to_regclass(t.ident) AND p.polcmd IN ('*', 'r') AND pg_get_expr(p.polqual, p.polrelid) = 'true'
                    AND EXISTS (SELECT FROM unnest(p.polroles) r (oid) WHERE r.oid = 0 OR pg_has_role(r.oid, 'USAGE'))
            )
        )
    ORDER BY t.i
)
