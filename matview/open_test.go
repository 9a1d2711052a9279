package matview_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/matview"
)

// A set that is opened by its name has the views that exist, in the order in which they read each
// other, whatever their names are.
func TestOpen(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	exec(t, pool, `CREATE SCHEMA "S.x"`)
	views := append(twoViews(),
		matview.View{Name: "Upper", SQL: "SELECT 1 AS one"},
		matview.View{Name: `"S.x"."a ""b"""`, SQL: `SELECT one FROM "Upper" -- the end`},
		matview.View{Name: "gone", SQL: "SELECT 1 AS one"},
		matview.View{Name: "renamed", SQL: "SELECT 1 AS one"},
		matview.View{Name: "again", SQL: "SELECT 1 AS one"})
	newRefresher(t, pool, matview.Config{Views: views})
	exec(t, pool, `DROP MATERIALIZED VIEW gone, again`, `CREATE TABLE again (one int)`, `ALTER MATERIALIZED VIEW renamed RENAME TO other`)

	r, err := matview.Open(t.Context(), pool, "dashboard", matview.Config{})
	if err != nil {
		t.Fatal(err)
	}
	report, err := r.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range report.Views {
		got = append(got, v.View+" "+v.Action.String())
	}
	want(t, "refreshed", strings.Join(got, ", "), `Upper refreshed, "S.x"."a ""b""" refreshed, totals refreshed, best refreshed`)
	fresh, err := r.Freshness(t.Context())
	if err != nil || len(fresh) != 4 || fresh[0].View != "Upper" || !fresh[0].Populated || fresh[0].Refreshes != 1 {
		t.Errorf("got the freshness %+v, %v; want that of four views, refreshed once", fresh, err)
	}
	if _, err := r.Refresh(t.Context(), "gone"); !errors.Is(err, matview.ErrUnknownView) {
		t.Errorf("a view that was dropped: got %v, want ErrUnknownView", err)
	}

	// The recorded definitions are still those of the program.
	if _, err := matview.New(t.Context(), pool, "dashboard", matview.Config{Views: views[:4], NoCreate: true}); err != nil {
		t.Error(err)
	}
}

func TestOpenNeedsLittle(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	for name, sentinel := range map[string]error{"dashboard": matview.ErrMissing, "nosuch.dashboard": matview.ErrMissing, "a.b.c": matview.ErrConfig} {
		if _, err := matview.Open(t.Context(), pool, name, matview.Config{}); !errors.Is(err, sentinel) {
			t.Errorf("%s: got %v, want %v", name, err, sentinel)
		}
	}
	if _, err := matview.Open(t.Context(), pool, "dashboard", matview.Config{Views: twoViews()}); !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), "Config.Views has 2 views, must be empty") {
		t.Errorf("views: got %v, want ErrConfig that names them", err)
	}
	newRefresher(t, pool, matview.Config{Views: twoViews()})
	user, role := as(t, pool)
	_, err := matview.Open(t.Context(), user, "dashboard", matview.Config{})
	want(t, "without SELECT", fmt.Sprint(err), fmt.Sprintf(`matview: missing privileges: role "%[1]s" needs: GRANT SELECT ON TABLE "dashboard_views" TO "%[1]s";`, role))
	exec(t, pool, fmt.Sprintf(`GRANT SELECT ON dashboard_views TO %q`, role))
	r, err := matview.Open(t.Context(), user, "dashboard", matview.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if fresh, err := r.Freshness(t.Context()); err != nil || len(fresh) != 2 || fresh[0].Populated {
		t.Errorf("got %+v, %v; want two views without data", fresh, err)
	}
	if _, err := r.Refresh(t.Context()); err == nil {
		t.Error("a reader has refreshed the views")
	}
	// A view that the role cannot find is not taken for dropped.
	exec(t, pool, `CREATE SCHEMA hidden; ALTER MATERIALIZED VIEW totals SET SCHEMA hidden`)
	if _, err := matview.Open(t.Context(), user, "dashboard", matview.Config{}); !errors.Is(err, matview.ErrMissing) || !strings.Contains(err.Error(), "view totals exists, but this role does not find it") {
		t.Errorf("a view in a schema that is not found: got %v, want ErrMissing", err)
	}
	exec(t, pool, `COMMENT ON TABLE dashboard_views IS 'headrace matview schema 9'`)
	if _, err := matview.Open(t.Context(), pool, "dashboard", matview.Config{}); !errors.Is(err, matview.ErrDrift) {
		t.Errorf("another layout: got %v, want ErrDrift", err)
	}
}

// A view that was made by hand under the name of one of the set is refreshed. The query of the one
// that it replaced is not taken for its own.
func TestAViewThatWasReplacedByHand(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	cfg := matview.Config{Views: twoViews()}
	r := newRefresher(t, pool, cfg)
	exec(t, pool, `DROP MATERIALIZED VIEW totals CASCADE`, `CREATE MATERIALIZED VIEW totals AS SELECT product, max(amount) AS total FROM sales GROUP BY product`)
	refresh(t, r, "totals")
	recorded := `SELECT definition FROM dashboard_views WHERE name = 'totals'`
	want(t, "its query", one[string](t, pool, recorded), "")
	refresh(t, r, "totals")
	want(t, "its query", one[string](t, pool, recorded), "")
	if _, err := matview.New(t.Context(), pool, "dashboard", cfg); !errors.Is(err, matview.ErrDrift) {
		t.Errorf("got %v, want a drift", err)
	}
	exec(t, pool, `DROP MATERIALIZED VIEW totals`)
	newRefresher(t, pool, cfg)
	want(t, "its query", one[string](t, pool, recorded) != "", true)
}
