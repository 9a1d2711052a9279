package matview_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/matview"
)

// A role learns from one error what it lacks to compare, to fill and to repair a roll-up. A correct
// one is rebuilt without DELETE, and compared by a role that may do nothing but read.
func TestPrivilegesOfRebuild(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := daily()
	r.Measures = append(r.Measures, matview.Measure{Name: "prices", Expr: "amount", Aggregate: matview.AggregateDistinct, Type: "numeric"})
	user, role := as(t, pool, `REVOKE CREATE ON SCHEMA public FROM PUBLIC`)
	check := func() error { _, err := r.Check(t.Context(), user, 0); return err }
	rebuild := func() error { _, err := r.Rebuild(t.Context(), user); return err }
	for name, f := range map[string]func() error{"Check": check, "Rebuild": rebuild} {
		if err := f(); !errors.Is(err, matview.ErrMissing) || !strings.Contains(fmt.Sprint(err), `roll-up "odd ""Daily"`) {
			t.Errorf("%s without the roll-up is %v, want ErrMissing", name, err)
		}
	}
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if err := promote(t.Context(), pool, r, newRand(1), 50, 3); err != nil {
		t.Fatal(err)
	}
	grant := func(privileges string, tables ...string) string {
		var out []string
		for _, table := range tables {
			out = append(out, fmt.Sprintf(`GRANT %s ON TABLE %s TO "%s";`, privileges, table, role))
		}
		return strings.Join(out, " ")
	}
	const rollup, values, sets = `"odd ""Daily"`, `"odd ""Daily_prices_values"`, `"odd ""Daily_prices"`
	refused := func(what string, f func() error, want string) {
		t.Helper()
		if err := f(); !errors.Is(err, matview.ErrPrivilege) || !strings.HasSuffix(fmt.Sprint(err), "needs: "+want) {
			t.Errorf("%s is\n%v, want\n%s", what, err, want)
		}
		exec(t, pool, want)
	}
	allowed := func(what string, f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("Check", check, grant("SELECT", `"orders"`, rollup, values, sets))
	exec(t, pool, "REVOKE SELECT ON orders FROM "+role, "GRANT SELECT (at, product, amount) ON orders TO "+role)
	allowed("Check of columns", check)
	refused("Rebuild", rebuild, grant("SELECT", `"orders"`)+" "+grant("INSERT, UPDATE", rollup, values, sets))
	allowed("Rebuild of a correct roll-up", rebuild)
	exec(t, pool, `TRUNCATE `+strings.Join([]string{rollup, sets}, ", "))
	allowed("Rebuild of an empty roll-up", rebuild)
	exec(t, pool, `UPDATE `+rollup+` SET n = n + 1`)
	refused("repair", rebuild, grant("DELETE", rollup, sets))
	allowed("repair", rebuild)
	same(t, user, r)
	exec(t, pool, `DROP TABLE `+sets)
	refused("Rebuild without a table", rebuild, fmt.Sprintf(`GRANT CREATE ON SCHEMA "public" TO "%s";`, role))
}
