package matview_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
)

// Views that read each other, directly, through a plain view and through a function, none of it
// declared, listed in the wrong order: they are created, refreshed and blocked in the order of the
// catalogue.
func TestOrderOfTheCatalogue(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	views := []matview.View{
		{Name: "by_function", SQL: `SELECT top_total() AS total`},
		{Name: "top", SQL: `SELECT max(total) AS total FROM doubled`},
		{Name: "direct", SQL: `SELECT count(*) AS n FROM top`},
		{Name: "totals", SQL: `SELECT product, sum(amount) AS total FROM sales GROUP BY product`, UniqueIndex: []string{"product"}},
		{Name: "alone", SQL: `SELECT count(*) AS n FROM sales`},
	}
	newRefresher(t, pool, matview.Config{Views: views[3:4]})
	exec(t, pool, `CREATE VIEW doubled AS SELECT product, 2 * total AS total FROM totals`,
		`CREATE FUNCTION top_total() RETURNS numeric BEGIN ATOMIC SELECT max(total) FROM totals; END`)
	r := newRefresher(t, pool, matview.Config{Views: views})
	order := []string{"totals refreshed", "by_function refreshed", "top refreshed", "direct refreshed", "alone refreshed"}
	want(t, "all", refresh(t, r), order)
	want(t, "one and what it reads", refresh(t, r, "direct"), []string{"totals refreshed concurrently", "top refreshed", "direct refreshed"})
	want(t, "another process", refresh(t, newRefresher(t, pool, matview.Config{Views: views}), "by_function"), []string{"totals refreshed concurrently", "by_function refreshed"})

	exec(t, pool, `DROP MATERIALIZED VIEW totals CASCADE`, `CREATE MATERIALIZED VIEW totals AS SELECT 'pen' AS product, 1 / (SELECT 0 FROM sales LIMIT 1) AS total WITH NO DATA`,
		`CREATE VIEW doubled AS SELECT product, 2 * total AS total FROM totals`)
	changed := views[1:3]
	changed = append(changed, matview.View{Name: "totals", SQL: `SELECT 'pen' AS product, 1 / (SELECT 0 FROM sales LIMIT 1) AS total`})
	r = newRefresher(t, pool, matview.Config{Views: changed})
	rep, err := r.Refresh(t.Context())
	want(t, "blocked", actions(rep), []string{"totals failed", "top blocked", "direct blocked"})
	if !errors.Is(err, matview.ErrBlocked) || strings.Count(err.Error(), "matview: ") != 3 {
		t.Errorf("got %v, want 3 lines that begin with matview", err)
	}
}

// A query that names a relation which does not exist is not tried forever.
func TestCreateNeedsWhatItReads(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	_, err := matview.New(t.Context(), pool, "dashboard", matview.Config{Views: []matview.View{
		{Name: "upper", SQL: `SELECT * FROM lower_one`}, {Name: "lower_one", SQL: `SELECT * FROM nosuch`},
	}})
	if err == nil || !strings.Contains(err.Error(), `create view lower_one: ERROR: relation "nosuch" does not exist`) {
		t.Errorf("got %v", err)
	}
	want(t, "nothing is left", one[bool](t, pool, `SELECT to_regclass('dashboard_views') IS NULL`), true)
}

// Many views that are given from the top down, each of which reads the next one.
func TestManyViewsFromTheTopDown(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	var views []matview.View
	for i := range 60 {
		from := fmt.Sprintf("v%d", i+1)
		if i == 59 {
			from = "sales"
		}
		views = append(views, matview.View{Name: fmt.Sprintf("v%d", i), SQL: "SELECT product FROM " + from})
	}
	cfg := matview.Config{Views: views}
	newRefresher(t, pool, cfg)
	rep, err := newRefresher(t, pool, cfg).Refresh(t.Context(), "v40")
	if err != nil || len(rep.Views) != 20 || rep.Views[0].View != "v59" {
		t.Errorf("refreshed %d views, %v; want 20 from v59 on", len(rep.Views), err)
	}
}

// The error about a column that is not unique has the value that is there twice.
func TestUniqueIndexOfWhatIsNotUnique(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	r := newRefresher(t, pool, matview.Config{Views: []matview.View{
		{Name: "twice", SQL: `SELECT n / 2 AS half FROM generate_series(2, 4) n`, UniqueIndex: []string{"half"}},
	}})
	_, err := r.Refresh(t.Context())
	if err == nil || !strings.Contains(err.Error(), "refresh twice") || !strings.Contains(err.Error(), "(half)=(1)") {
		t.Errorf("got %v", err)
	}
}

// A dependency that is declared the other way round than the catalogue has it.
func TestDeclaredAgainstTheCatalogue(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	_, err := matview.New(t.Context(), pool, "dashboard", matview.Config{Views: []matview.View{
		{Name: "totals", SQL: `SELECT sum(amount) AS total FROM sales`, DependsOn: []string{"best"}},
		{Name: "best", SQL: `SELECT max(total) AS total FROM totals`},
	}})
	if !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), "has the cycle best → totals → best") {
		t.Errorf("got %v", err)
	}
}

// The clock was an hour ahead at the last refresh, and is right again: a failover to another
// machine. What is committed since then must be in the view, and its age must not be negative.
func TestClockThatWasAhead(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	r := newRefresher(t, pool, matview.Config{Views: twoViews()})
	refresh(t, r)
	exec(t, pool, `UPDATE dashboard_views SET as_of = as_of + interval '1 hour', refreshed_at = refreshed_at + interval '1 hour'`, `INSERT INTO sales VALUES ('cap', 100)`)
	before, err := r.Freshness(t.Context())
	if err != nil || before[0].Age < 0 {
		t.Errorf("age is %v (%v), want at least 0", before[0].Age, err)
	}
	want(t, "after the clock went back", refresh(t, r), []string{"totals refreshed concurrently", "best refreshed"})
	want(t, "best", one[string](t, pool, `SELECT total::text FROM best`), "100")
	after, _ := r.Freshness(t.Context())
	if !after[0].AsOf.Before(before[0].AsOf) {
		t.Errorf("as of %v, then %v: want the later one to be right", before[0].AsOf, after[0].AsOf)
	}
}

// The state table was restored into a cluster whose transaction ids are lower: the recorded run is
// from the future.
func TestStateOfAnotherCluster(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	r := newRefresher(t, pool, matview.Config{Views: twoViews()})
	refresh(t, r)
	exec(t, pool, `UPDATE dashboard_views SET started = '9000000000000000000'`, `INSERT INTO sales VALUES ('cap', 100)`)
	want(t, "restored", refresh(t, r), []string{"totals refreshed concurrently", "best refreshed"})
	want(t, "best", one[string](t, pool, `SELECT total::text FROM best`), "100")
}
