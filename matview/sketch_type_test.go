package matview_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
)

// A sketch of values that Postgres cannot hash is refused by Create, or every promotion would fail.
// The check evaluates nothing: an expression that fails for some rows is not at fault.
func TestSketchesOfValuesWithoutAHashAreRefused(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE DOMAIN price AS money`, `CREATE TYPE pair AS (a int, b money)`,
		`CREATE TABLE ev (kind text, m money, p price, pair pair, ms money[], b bit(3), vb varbit, ts tsvector, n numeric, j jsonb, i int, tags text[])`)
	for i, c := range []struct {
		expr  string
		holds bool
	}{
		{"m", false}, {"p", false}, {"pair", false}, {"ms", false}, {"b", false}, {"vb", false}, {"ts", false},
		{"(m)::text", true}, {"n", true}, {"j", true}, {"tags", true}, {"1 / coalesce(i, 0)", true},
	} {
		r := matview.Rollup{
			Table: fmt.Sprintf("roll%d", i), From: "ev", GroupBy: []matview.Column{{Name: "kind", Type: "text"}},
			Measures: []matview.Measure{{Name: "v", Expr: c.expr, Aggregate: matview.AggregateSketch}},
		}
		err := r.Create(t.Context(), pool)
		if c.holds && err != nil {
			t.Errorf("a sketch of %s: %v, want none", c.expr, err)
		}
		if !c.holds && (!errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), "write ("+c.expr+")::text")) {
			t.Errorf("a sketch of %s: %v, want a refusal that names the remedy", c.expr, err)
		}
	}
}
