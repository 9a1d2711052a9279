package staging

import (
	"slices"
	"testing"

	"github.com/headrace/headrace/matview"
)

// A merge gets the columns that it names, however it names them, and all columns where it may read
// the whole row.
func TestMergesGetTheColumnsTheyName(t *testing.T) {
	t.Parallel()
	tab := &table{targetColumns: []string{"id", "amount", "category", "Odd \"Name", "raw", "größe", "grÖßer"}}
	all := []string{"*"}
	for sql, want := range map[string][]string{
		`INSERT INTO sums SELECT category, sum(amount) FROM promoted GROUP BY category`: {"amount", "category"},
		`SELECT count(*) FROM promoted`:                                                              {},
		`SELECT sum(p.AMOUNT * 2) FROM promoted AS p`:                                                {"amount"},
		`SELECT sum(p.amount*p.id) FROM promoted p WHERE p.id > 0`:                                   {"id", "amount"},
		`SELECT sum(amount OPERATOR(pg_catalog.*) 2) FROM promoted`:                                  {"amount"},
		`SELECT "operator"(promoted.*) FROM promoted`:                                                all,
		`SELECT "Odd ""Name", GRÖSSE FROM promoted`:                                                  {"Odd \"Name"},
		`SELECT GrÖßER FROM promoted`:                                                                {"grÖßer"},
		`SELECT größe FROM promoted -- raw`:                                                          {"größe"},
		`SELECT 'raw', E'it\'s raw', $$raw$$, $x$ raw $x$ /* raw /* raw */ raw */, id FROM promoted`: {"id"},
		`SELECT -1, amount FROM replaced AS promoted`:                                                {"amount"},
		`SELECT * FROM promoted`:                                                                     all,
		`SELECT id, * FROM promoted`:                                                                 all,
		`SELECT promoted.* FROM promoted`:                                                            all,
		`SELECT p.* FROM promoted p`:                                                                 all,
		`SELECT to_jsonb(promoted) FROM promoted`:                                                    all,
		`SELECT to_jsonb(x) FROM promoted AS x`:                                                      all,
		`SELECT to_jsonb(x) FROM replaced x WHERE x.id > 1`:                                          all,
		`SELECT b FROM promoted AS p (a, b)`:                                                         all,
		`SELECT b FROM promoted p(a, b)`:                                                             all,
		`SELECT n FROM promoted NATURAL JOIN names`:                                                  all,
		`SELECT U&"\0069d" FROM promoted`:                                                            all,
		`TABLE promoted`:                                                                             all,
		`SELECT amount(promoted) FROM promoted`:                                                      all,
		`SELECT n FROM names, promoted`:                                                              all,
	} {
		got, known := tab.returned([]Merge{{Name: "m", SQL: sql}})
		if !known {
			got = all
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", sql, got, want)
		}
	}
}

// The statements of roll-ups name the columns that they read, whatever they measure: a promotion
// never returns whole rows for them.
func TestRollUpsNameTheirColumns(t *testing.T) {
	t.Parallel()
	tab := &table{targetColumns: []string{"id", "amount", "category", "buyer", "raw"}}
	for _, replaces := range []bool{false, true} {
		r := matview.Rollup{
			Table: "sums", From: "orders", Replaces: replaces, GroupBy: []matview.Column{{Name: "category", Type: "text"}},
			Measures: []matview.Measure{
				{Name: "n", Aggregate: matview.AggregateCount},
				{Name: "sum", Expr: "amount", Aggregate: matview.AggregateSum},
				{Name: "mean", Expr: "amount", Aggregate: matview.AggregateAverage},
				{Name: "most", Expr: "amount", Type: "numeric", Aggregate: matview.AggregateMax},
				{Name: "buyers", Expr: "buyer", Type: "text", Aggregate: matview.AggregateDistinct},
				{Name: "values", Expr: "buyer", Type: "citext", Aggregate: matview.AggregateDistinct},
				{Name: "about", Expr: "buyer", Aggregate: matview.AggregateSketch},
			},
		}
		list, err := r.Merges()
		if err != nil {
			t.Fatal(err)
		}
		var merges []Merge
		for _, m := range list {
			merges = append(merges, Merge(m))
		}
		if got, known := tab.returned(merges); !known || !slices.Equal(got, []string{"amount", "category", "buyer"}) {
			t.Errorf("replaces %t: got %q (known: %t), want amount, category and buyer", replaces, got, known)
		}
	}
}
