package matview_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/headrace/headrace/matview"
)

// TestTablesWithoutTheirRows: a roll-up or its table of distinct values that was emptied, replaced
// or dropped is refused until Rebuild, because the next promotion would count from there.
func TestTablesWithoutTheirRows(t *testing.T) {
	t.Parallel()
	const noValues, noGroups = `column "d" counts values, and table "sums_d" has none`, `it has no groups, and table "sums_d" has values of them`
	for name, c := range map[string]struct{ sql, want string }{
		"values emptied":           {`TRUNCATE sums_d`, noValues},
		"values dropped":           {`DROP TABLE sums_d`, noValues},
		"values replaced":          {`ALTER TABLE sums_d RENAME TO old; CREATE TABLE sums_d (LIKE old INCLUDING ALL); ALTER TABLE sums_d REPLICA IDENTITY FULL`, noValues},
		"roll-up emptied":          {`TRUNCATE sums`, noGroups},
		"roll-up replaced":         {`ALTER TABLE sums RENAME TO old; CREATE TABLE sums (LIKE old INCLUDING ALL); ALTER TABLE sums REPLICA IDENTITY FULL`, noGroups},
		"both emptied":             {`TRUNCATE sums, sums_d`, ""},
		"old rows of the source":   {`DELETE FROM orders`, ""},
		"no values in any group":   {`DELETE FROM sums WHERE d > 0; TRUNCATE sums_d`, ""},
		"an older group is missed": {`DELETE FROM sums WHERE product = 'ink'`, ""},
	} {
		for _, replaces := range []bool{false, true} {
			t.Run(strings.TrimSpace(name+map[bool]string{true: " replaces"}[replaces]), func(t *testing.T) {
				t.Parallel()
				pool := newTarget(t)
				r := matview.Rollup{
					Table: "sums", From: "orders", Replaces: replaces, GroupBy: []matview.Column{{Name: "product", Type: "text"}},
					Measures: []matview.Measure{{Name: "d", Expr: "amount", Type: "numeric", Aggregate: matview.AggregateDistinct}},
				}
				if err := r.Create(t.Context(), pool); err != nil {
					t.Fatal(err)
				}
				exec(t, pool, `INSERT INTO orders VALUES (NULL, 'ink', 1), (NULL, 'pen', 2), (NULL, 'cap', NULL)`)
				if _, err := r.Rebuild(t.Context(), pool); err != nil {
					t.Fatal(err)
				}
				if err := r.Verify(t.Context(), pool); err != nil {
					t.Fatal(err)
				}
				exec(t, pool, c.sql)
				err := r.Create(t.Context(), pool)
				var drift *matview.DriftError
				switch errors.As(err, &drift); {
				case c.want == "" && err != nil:
					t.Fatal(err)
				case c.want != "" && drift == nil:
					t.Fatalf("Create is %v, want a DriftError", err)
				case c.want != "":
					want(t, "differences", drift.Differences, []string{c.want})
				}
				if _, err := r.Rebuild(t.Context(), pool); err != nil {
					t.Fatal(err)
				}
				if err := r.Verify(t.Context(), pool); err != nil {
					t.Error(err)
				}
				if diffs, err := r.Check(t.Context(), pool, 0); err != nil || len(diffs) > 0 {
					t.Errorf("Check: %v, %v", diffs, err)
				}
			})
		}
	}
}
