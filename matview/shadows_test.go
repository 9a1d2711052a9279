package matview_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
)

// With pg_catalog behind another schema, what that schema has under a name of Postgres would be
// meant by every statement. It is refused, and the search path is otherwise as good as another.
// A hostile database quotes every name.
func TestShadowedNames(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE sales (at date, n int); CREATE FUNCTION never(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false'`)
	behind := withPath(t, pool, "public, pg_catalog")
	cfg := matview.Config{Views: []matview.View{{Name: "v", SQL: "SELECT at, sum(n) AS n FROM sales GROUP BY at", UniqueIndex: []string{"at"}}}}
	r := matview.Rollup{
		Table: "r", From: "sales", Replaces: true, GroupBy: []matview.Column{{Name: "at", Type: "date"}},
		Measures: []matview.Measure{{Name: "n", Expr: "n", Aggregate: matview.AggregateSum}},
	}
	calls := map[string]func() error{
		"New":     func() error { _, err := matview.New(t.Context(), behind, "set", cfg); return err },
		"Open":    func() error { _, err := matview.Open(t.Context(), behind, "set", matview.Config{}); return err },
		"Create":  func() error { return r.Create(t.Context(), behind) },
		"Verify":  func() error { return r.Verify(t.Context(), behind) },
		"Rebuild": func() error { _, err := r.Rebuild(t.Context(), behind); return err },
		"Check":   func() error { _, err := r.Check(t.Context(), behind, 0); return err },
	}
	for _, name := range []string{"New", "Create", "Open", "Verify", "Rebuild", "Check"} {
		if err := calls[name](); err != nil {
			t.Errorf("%s with nothing in the way: %v", name, err)
		}
	}
	for create, shadow := range map[string]string{
		`CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = never)`:                               "operator public.=(text,text)",
		`CREATE FUNCTION to_regclass(text) RETURNS regclass LANGUAGE sql AS 'SELECT NULL::regclass'`:                 "function public.to_regclass(text)",
		`CREATE AGGREGATE sum(int) (SFUNC = int4larger, STYPE = int)`:                                                "function public.sum(integer)",
		`CREATE VIEW pg_attribute AS SELECT attname FROM pg_catalog.pg_attribute`:                                    "relation public.pg_attribute",
		`CREATE DOMAIN public.text AS pg_catalog.text; CREATE FUNCTION now() RETURNS int LANGUAGE sql AS 'SELECT 1'`: "type public.text",
	} {
		exec(t, pool, create)
		for name, call := range calls {
			if err := call(); !errors.Is(err, matview.ErrConfig) || !strings.Contains(strings.ReplaceAll(fmt.Sprint(err), `"`, ""), "behind the schema of "+shadow+",") {
				t.Errorf("after %s, %s is %v, want an ErrConfig that names %s", create, name, err, shadow)
			}
		}
		exec(t, pool, map[string]string{
			"operator": `DROP OPERATOR public.=(text, text)`, "function": `DROP ROUTINE IF EXISTS public.to_regclass(text), public.sum(int)`,
			"relation": `DROP VIEW public.pg_attribute`, "type": `DROP DOMAIN public.text`,
		}[strings.Fields(shadow)[0]])
	}
	for name, call := range calls { // now() of the user is in the way of none
		if err := call(); err != nil {
			t.Errorf("%s with nothing in the way: %v", name, err)
		}
	}
}
