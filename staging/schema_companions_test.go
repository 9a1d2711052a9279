package staging_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// A table of another program that has the name of a companion table is refused, and stays as it is.
func TestATableOfAnotherProgramWithOurName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, columns, want string }{
		{"ledger", "id uuid PRIMARY KEY, amount numeric", `"kind" is missing (expected text)`},
		{"rejects", "id bigint, reason text", "batch"},
		{"reject_counts", "code text, n int", `"open" is missing (expected bigint); column "resolved" is missing`},
		{"control", "one boolean, target text, open text", "layout"},
		{"epoch", "epoch int", `"one" is missing (expected boolean)`},
		{"registry_a", "id uuid, owner text", `"root" is missing (expected uuid)`},
		{"registry_b", "", `"no" is missing (expected integer)`},
		{"refused_a", "code text", `"hr_batch"`},
		{"refused_b", "hr_batch integer, pos integer, key text, code text, reason text, payload text", `"bytes" is missing (expected bytea)`},
		{"staging_a", "id text, n bigint, note text, at timestamptz", `"hr_record" is missing (expected bigint)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, `CREATE TABLE items (id text PRIMARY KEY, n bigint, note text, at timestamptz); CREATE TABLE items_`+c.name+` (`+c.columns+`)`)
			const shape = `SELECT string_agg(concat_ws(' ', c.relname, c.relreplident, c.relhasindex, a.attname), ', ' ORDER BY c.relname, a.attnum)
				FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 WHERE c.relname LIKE 'items%' AND c.relkind = 'r'`
			before := query[string](t, pool, shape)
			_, err := staging.New(t.Context(), pool, "items", staging.Config[item]{})
			if !errors.Is(err, staging.ErrDrift) || !strings.Contains(err.Error(), c.name) && c.name != "control" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ErrDrift with the table and %q", err, c.want)
			}
			if after := query[string](t, pool, shape); after != before {
				t.Errorf("the tables are %s, want %s", after, before)
			}
		})
	}
}
