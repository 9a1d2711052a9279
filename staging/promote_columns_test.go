package staging

import (
	"slices"
	"testing"
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
