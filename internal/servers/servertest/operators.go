package servertest

import "strings"

// HostileOperators returns SQL that makes operators of the user, each of which fails: for each pair
// of types for which Postgres has no operator of exactly these types.
func HostileOperators(types, operators string) string {
	return strings.NewReplacer("{types}", types, "{operators}", operators).Replace(`
	CREATE FUNCTION fails(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE 'operator % of the user was taken', $1; END $$;
	DO $$ DECLARE l text; r text; o text; BEGIN
		FOREACH l IN ARRAY '{{types}}'::text[] LOOP
		FOREACH r IN ARRAY '{{types}}'::text[] LOOP
		FOREACH o IN ARRAY '{{operators}}'::text[] LOOP
			IF (l <> r OR l IN ('varchar', 'varchar[]', 'cidr')) AND to_regoperator(format('pg_catalog.%s(%s,%s)', o, l, r)) IS NULL THEN
				EXECUTE format('CREATE FUNCTION public.%1$I(%2$s, %3$s) RETURNS %5$s LANGUAGE sql AS $a$SELECT NULL::%5$s FROM public.fails(%4$L)$a$', o, l, r, l || o || r,
					CASE WHEN o IN ('=', '<>', '<', '<=', '>', '>=') THEN 'bool' ELSE l END);
				EXECUTE format('CREATE OPERATOR public.%1$s (LEFTARG = %2$s, RIGHTARG = %3$s, FUNCTION = public.%1$I)', o, l, r);
			END IF;
		END LOOP; END LOOP; END LOOP;
	END $$;`)
}
