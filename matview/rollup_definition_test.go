package matview_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/headrace/headrace/matview"
	"github.com/jackc/pgx/v5/pgxpool"
)

func byProduct() matview.Rollup {
	return matview.Rollup{
		Table: "by_product", From: "orders", GroupBy: []matview.Column{{Name: "product", Type: "text"}},
		Measures: []matview.Measure{
			{Name: "total", Expr: "amount", Aggregate: matview.AggregateSum},
			{Name: "amounts", Expr: "amount::text", Type: "text", Aggregate: matview.AggregateDistinct},
		},
	}
}

// drift is an ErrDrift that has a text.
func drift(t *testing.T, what string, err error, text string) {
	t.Helper()
	if !errors.Is(err, matview.ErrDrift) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: got %v, want a drift with %q", what, err, text)
	}
}

// A definition with the same columns that computes something else is refused, because its rows
// would be added to those of the other. Rebuild makes it the definition.
func TestRedefined(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(r *matview.Rollup)
		drift  string
	}{
		"an expression":   {func(r *matview.Rollup) { r.Measures[0].Expr = "amount * 2" }, `column "total" holds sum(amount), the definition has sum(amount * 2)`},
		"an aggregate":    {func(r *matview.Rollup) { r.Measures[0].Aggregate, r.Measures[0].Type = matview.AggregateMax, "numeric" }, `holds sum(amount), the definition has max(amount)`},
		"a key":           {func(r *matview.Rollup) { r.GroupBy[0].Expr = "upper(product)" }, `column "product" holds "product", the definition has upper(product)`},
		"distinct values": {func(r *matview.Rollup) { r.Measures[1].Expr = "(amount + 1)::text" }, `the definition has distinct((amount + 1)::text)`},
		"a dictionary":    {func(r *matview.Rollup) { r.Measures[1].Dictionary = "numbers" }, `are numbered by "by_product_amounts_values", the definition has "numbers"`},
		"a table":         {func(r *matview.Rollup) { r.From = "returns" }, `it aggregates table "orders", the definition has "returns"`},
		"distinct values no more": {func(r *matview.Rollup) {
			r.Measures = []matview.Measure{r.Measures[0], {Name: "amounts", Expr: "amount", Aggregate: matview.AggregateCount}}
		}, `column "amounts" holds distinct(amount::text), the definition has count(amount)`},
		"a blank within a value": {func(r *matview.Rollup) { r.GroupBy[0].Expr = "product || ' '" }, `the definition has product || ' '`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newTarget(t)
			exec(t, pool, `CREATE TABLE returns (LIKE orders)`, `INSERT INTO returns VALUES (now(), 'pen', 1)`)
			r := byProduct()
			if err := r.Create(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			if err := promote(t.Context(), pool, r, newRand(1), 30, 3); err != nil {
				t.Fatal(err)
			}
			user, role := as(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ROLE`)
			next := byProduct()
			c.change(&next)
			drift(t, "Create", next.Create(t.Context(), pool), c.drift)
			if next.Measures[1].Dictionary == "" { // it does not exist, and Verify reports that
				drift(t, "Verify", next.Verify(t.Context(), user), c.drift)
			}
			if _, err := next.Rebuild(t.Context(), user); !errors.Is(err, matview.ErrPrivilege) || !strings.Contains(err.Error(), `ALTER TABLE "by_product" OWNER TO "`+role) {
				t.Errorf("Rebuild by another role: got %v, want ErrPrivilege", err)
			}
			if err := r.Verify(t.Context(), user); err != nil {
				t.Error(err)
			}
			if _, err := next.Rebuild(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			if err := next.Verify(t.Context(), pool); err != nil {
				t.Error(err)
			}
			drift(t, "the old one", r.Create(t.Context(), pool), "differs")
			if err := promote(t.Context(), pool, next, newRand(2), 30, 3); err != nil && next.From == "orders" {
				t.Error(err)
			}
			if next.From == "orders" {
				same(t, pool, next)
			}
		})
	}
}

// A count that becomes one of distinct values needs more tables, which Rebuild creates.
func TestACountBecomesOneOfDistinctValues(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := byProduct()
	r.Measures[1] = matview.Measure{Name: "amounts", Expr: "amount", Aggregate: matview.AggregateCount}
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if err := promote(t.Context(), pool, r, newRand(1), 30, 3); err != nil {
		t.Fatal(err)
	}
	next := byProduct()
	drift(t, "Create", next.Create(t.Context(), pool), "the definition has distinct(amount::text)")
	if _, err := next.Rebuild(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if err := promote(t.Context(), pool, next, newRand(2), 30, 3); err != nil {
		t.Fatal(err)
	}
	if err := next.Verify(t.Context(), pool); err != nil {
		t.Error(err)
	}
	same(t, pool, next)
}

// A table with and without its schema is one table.
func TestDefinitionInAnotherSpelling(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := byProduct()
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if err := promote(t.Context(), pool, r, newRand(1), 30, 3); err != nil {
		t.Fatal(err)
	}
	r.Table, r.From = "public.by_product", `public."orders"`
	if err := r.Verify(t.Context(), pool); err != nil {
		t.Error(err)
	}
	r.Measures[1].Dictionary = "by_product_amounts_values"
	if err := r.Verify(t.Context(), pool); err != nil {
		t.Error(err)
	}
	same(t, pool, r)
}

// An empty roll-up takes any definition. A comment of the user's own stays, and then the definition
// is not compared.
func TestDefinitionOfAnEmptyRollup(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := byProduct()
	for _, expr := range []string{"amount", "-amount", "amount"} {
		r.Measures[0].Expr = expr
		if err := r.Create(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		if err := r.Verify(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, pool, `COMMENT ON TABLE by_product IS NULL`)
	if err := promote(t.Context(), pool, r, newRand(1), 9, 3); err != nil {
		t.Fatal(err)
	}
	if err := r.Create(t.Context(), pool); err != nil { // records it
		t.Fatal(err)
	}
	r.Measures[0].Expr = "-amount"
	drift(t, "recorded", r.Verify(t.Context(), pool), "-amount")
	exec(t, pool, `COMMENT ON TABLE by_product IS 'ours'`)
	if err := r.Create(t.Context(), pool); err != nil {
		t.Error(err)
	}
	if _, err := r.Rebuild(t.Context(), pool); err != nil {
		t.Error(err)
	}
	want(t, "comment", one[string](t, pool, `SELECT obj_description('by_product'::regclass)`), "ours")
}

// The unique index of a table compares by the column's collation, which the type alone does not
// tell.
func TestCollationOfARollupsColumns(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := byProduct()
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	r.GroupBy[0].Type = `text COLLATE "POSIX"`
	drift(t, "key", r.Verify(t.Context(), pool), `column "product" has the collation "default", the definition has "POSIX"`)
	r = byProduct()
	r.Measures[1].Type = `text COLLATE "POSIX"`
	drift(t, "values", r.Verify(t.Context(), pool), `has the collation "C", the definition has "POSIX"`)
	for _, table := range []string{"by_product", "by_product_amounts"} {
		exec(t, pool, `ALTER TABLE `+table+` ALTER product TYPE text COLLATE "POSIX"`)
		drift(t, table, byProduct().Verify(t.Context(), pool), `has the collation "POSIX"`)
		exec(t, pool, `ALTER TABLE `+table+` ALTER product TYPE text COLLATE `+map[string]string{"by_product": `"default"`, "by_product_amounts": `"C"`}[table])
	}
	if err := byProduct().Verify(t.Context(), pool); err != nil {
		t.Error(err)
	}
}

// A dictionary that was dropped or emptied would give the numbers that the sets hold to other
// values. Rebuild mends each roll-up that counts with it.
func TestLostDictionary(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]string{"dropped": `DROP TABLE "Their ""Own"""`, "emptied": `TRUNCATE "Their ""Own""" RESTART IDENTITY`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newShop(t)
			rollups := sharing()
			check := func(pool *pgxpool.Pool, what string, f func(r matview.Rollup) error) {
				t.Helper()
				for _, r := range rollups {
					if err := f(r); err != nil {
						t.Errorf("%s of %s: %v", what, r.Table, err)
					}
				}
			}
			create := func(r matview.Rollup) error { return r.Create(t.Context(), pool) }
			check(pool, "Create", create)
			sellOnce := func(seed uint64) {
				if err := sell(t.Context(), pool, rollups, newRand(seed), 90, 40); err != nil {
					t.Fatal(err)
				}
			}
			sellOnce(1)
			exec(t, pool, lose)
			for _, r := range rollups {
				drift(t, r.Table, r.Create(t.Context(), pool), "dropped or emptied")
			}
			rebuild := func(r matview.Rollup) error {
				_, err := r.Rebuild(t.Context(), pool)
				return err
			}
			check(pool, "Rebuild", rebuild)
			check(pool, "Create", create)
			sellOnce(2)
			for _, r := range rollups {
				same(t, pool, r)
			}
			// The first Rebuild gives numbers again. No other roll-up has them.
			for _, first := range rollups {
				exec(t, pool, lose)
				if err := rebuild(first); err != nil {
					t.Fatal(err)
				}
				same(t, pool, first)
				for _, r := range rollups {
					if r.Table != first.Table {
						drift(t, r.Table, r.Create(t.Context(), pool), "dropped or emptied")
					}
				}
				check(pool, "Rebuild", rebuild)
				check(pool, "Create", create)
			}
		})
	}
}
