package matview_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/headrace/headrace/matview"
)

// distinctly counts the distinct amounts of each product in a column.
func distinctly(table, column string) matview.Rollup {
	return matview.Rollup{
		Table: table, From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}},
		Measures: []matview.Measure{{Name: column, Expr: "amount", Type: "numeric", Aggregate: matview.AggregateDistinct}},
	}
}

// A table that would not hold what a merge writes is refused, whichever of the roll-up's it is.
func TestTablesThatLoseRows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ lose, mend, text string }{
		{`ALTER TABLE s SET UNLOGGED`, `ALTER TABLE s SET LOGGED`, "table s is UNLOGGED"},
		{`ALTER TABLE s_n SET UNLOGGED`, `ALTER TABLE s_n SET LOGGED`, "table s_n is UNLOGGED"},
		{`ALTER TABLE s_n_values SET UNLOGGED`, `ALTER TABLE s_n_values SET LOGGED`, "table s_n_values is UNLOGGED"},
		{`ALTER TABLE orders SET UNLOGGED; ALTER TABLE s SET UNLOGGED`, "", ""},
		{`CREATE TRIGGER "no Row" BEFORE UPDATE ON s FOR EACH ROW EXECUTE FUNCTION nothing()`, `DROP TRIGGER "no Row" ON s`, `trigger "no Row" of table s`},
		{`CREATE TRIGGER no_row BEFORE INSERT ON s_n FOR EACH ROW EXECUTE FUNCTION nothing()`, `ALTER TABLE s_n DISABLE TRIGGER no_row`, "trigger no_row of table s_n"},
		{`CREATE TRIGGER later AFTER INSERT OR UPDATE ON s FOR EACH ROW EXECUTE FUNCTION nothing()`, "", ""},
		{`CREATE TRIGGER once BEFORE INSERT ON s FOR EACH STATEMENT EXECUTE FUNCTION nothing()`, "", ""},
	} {
		t.Run(c.lose, func(t *testing.T) {
			t.Parallel()
			pool := newTarget(t)
			exec(t, pool, `CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$`)
			r := distinctly("s", "n")
			if err := r.Create(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			exec(t, pool, c.lose)
			if c.text != "" {
				drift(t, "Create", r.Create(t.Context(), pool), c.text)
				drift(t, "Verify", r.Verify(t.Context(), pool), c.text)
				exec(t, pool, c.mend)
			}
			if err := r.Verify(t.Context(), pool); err != nil {
				t.Error(err)
			}
		})
	}
}

// Names of tables are made of two names, and two roll-ups may have one table of values between
// them.
func TestRollupsWithOneTableOfValues(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	for _, replaces := range []bool{false, true} {
		a, b, c := distinctly("sales", "a_b"), distinctly("sales_a", "b"), distinctly("sales_b", "b")
		a.Replaces, b.Replaces, c.Replaces = replaces, replaces, replaces
		if _, err := matview.Merges(a, b); !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), "sales_a_b") {
			t.Errorf("Merges: got %v, want an ErrConfig that names the table", err)
		}
		for _, r := range []matview.Rollup{a, c, a} {
			if err := r.Create(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Create(t.Context(), pool); !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), `column "a_b" of roll-up "sales"`) {
			t.Errorf("Create: got %v, want an ErrConfig that names the other roll-up", err)
		}
		exec(t, pool, `DROP TABLE sales, sales_a_b, sales_b, sales_b_b`)
	}
}

// A promotion has one table, and roll-ups have names of their own.
func TestRollupsThatAreNotTogether(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	a, b := distinctly("sales", "n"), distinctly("other", "n")
	for text, change := range map[string]func(r *matview.Rollup){
		`Rollup.From (roll-up other) is returns, must be orders`: func(r *matview.Rollup) { r.From = "returns" },
		`Rollup.From (roll-up other) is sales, must be orders`:   func(r *matview.Rollup) { r.From = "sales" },
		`Rollup.Name (roll-up other) is "sales"`:                 func(r *matview.Rollup) { r.Name = "sales" },
		`Rollup.Name (roll-up s.sales) is "sales"`:               func(r *matview.Rollup) { r.Table = "s.sales" },
	} {
		r := b
		change(&r)
		if _, err := matview.Merges(a, r); !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want an ErrConfig with %q", err, text)
		}
	}
	b.From = "public.orders"
	if _, err := matview.Merges(a, b); err != nil {
		t.Errorf("the same table with its schema: %v", err)
	}
	if err := a.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `CREATE VIEW shown AS TABLE orders`)
	for from, text := range map[string]string{"sales": "it is a roll-up", "shown": "it is another kind of object"} {
		r := matview.Rollup{Table: "upper", From: from, GroupBy: a.GroupBy, Measures: []matview.Measure{{Name: "rows", Aggregate: matview.AggregateCount}}}
		if err := r.Create(t.Context(), pool); !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), text) {
			t.Errorf("from %s: got %v, want an ErrConfig with %q", from, err, text)
		}
	}
}

// A column that is not generated any more is refused: no merge writes it.
func TestGeneratedColumns(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := full(false)
	for _, column := range []string{"mean", "about"} {
		if err := r.Create(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		exec(t, pool, `ALTER TABLE "odd ""Daily" ALTER `+column+` DROP EXPRESSION`)
		drift(t, "Create", r.Create(t.Context(), pool), `column "`+column+`" is not generated`)
		drift(t, "Verify", r.Verify(t.Context(), pool), `column "`+column+`" is not generated`)
		exec(t, pool, `DROP TABLE "odd ""Daily"`)
	}
}

// What is inside the aggregate and is no expression is refused: counts of distinct values of two
// promotions do not add up.
func TestExpressionsOfMeasures(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	for _, expr := range []string{"DISTINCT product", "amount ORDER BY amount", "amount) FILTER (WHERE amount > 1", "amount -- of money", "ALL amount", "no_column"} {
		for a := matview.AggregateSum; a <= matview.AggregateSketch; a++ {
			m := matview.Measure{Name: "v", Expr: expr, Aggregate: a}
			if a == matview.AggregateMin || a == matview.AggregateMax || a == matview.AggregateDistinct {
				m.Type = "text"
			}
			r := matview.Rollup{Table: "odd", From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}}, Measures: []matview.Measure{m}}
			if err := r.Create(t.Context(), pool); !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), "Rollup.Measures[0].Expr (column v) is "+expr) {
				t.Errorf("aggregate %d of %s: got %v, want an ErrConfig that names the column", a, expr, err)
			}
		}
	}
}
