package matview_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/staging"
)

// limited is a row of the table that the widest roll-ups group.
type limited struct {
	ID int64 `db:"id"`
	V  int64 `db:"v"`
}

// The widest roll-ups that Validate takes can be created, merged, checked and rebuilt. A wider one
// is refused before it reaches the server.
func TestWidestRollups(t *testing.T) {
	t.Parallel()
	aggregates := map[string]func(name string) matview.Measure{
		"count": func(name string) matview.Measure {
			return matview.Measure{Name: name, Aggregate: matview.AggregateCount}
		},
		"sum": func(name string) matview.Measure {
			return matview.Measure{Name: name, Expr: "v", Aggregate: matview.AggregateSum}
		},
		"average": func(name string) matview.Measure {
			return matview.Measure{Name: name, Expr: "v", Aggregate: matview.AggregateAverage}
		},
		"minimum": func(name string) matview.Measure {
			return matview.Measure{Name: name, Expr: "v", Type: "bigint", Aggregate: matview.AggregateMin}
		},
		"distinct": func(name string) matview.Measure {
			return matview.Measure{Name: name, Expr: "v", Type: "bigint", Aggregate: matview.AggregateDistinct}
		},
		"sketch": func(name string) matview.Measure {
			return matview.Measure{Name: name, Expr: "v", Aggregate: matview.AggregateSketch, Precision: 4}
		},
	}
	for name, measure := range aggregates {
		for _, replaces := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/replaces=%v", name, replaces), func(t *testing.T) {
				t.Parallel()
				r := matview.Rollup{Table: "wide", From: "items", Replaces: replaces}
				for i := range 32 {
					r.GroupBy = append(r.GroupBy, matview.Column{Name: fmt.Sprint("k", i), Expr: fmt.Sprintf("v %% %d", i+2), Type: "numeric"})
				}
				for i := range 150 {
					r.Measures = append(r.Measures, measure(fmt.Sprint("m", i)))
				}
				switch name {
				case "distinct":
					r.Measures = r.Measures[:3] // each has tables of its own
					if err := r.Validate(); !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), "must have 1 to 31 in a roll-up") {
						t.Errorf("32 keys and distinct values: %v, want ErrConfig that names 31", err)
					}
					r.GroupBy = r.GroupBy[:31]
				case "sketch":
					r.Measures = r.Measures[:10]
				}
				mergeWide(t, r)
			})
		}
	}
}

func mergeWide(t *testing.T, r matview.Rollup) {
	const big = 1e15 // so that a number takes as much as it may
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE items (id bigint PRIMARY KEY, v bigint)")
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	merges, err := r.Merges()
	if err != nil {
		t.Fatal(err)
	}
	conf := staging.Config[limited]{Create: true, Key: []string{"id"}}
	if r.Replaces {
		conf.Conflict = staging.ConflictReplace
	}
	for _, m := range merges {
		conf.Merges = append(conf.Merges, staging.Merge(m))
	}
	tab, err := staging.New(t.Context(), pool, "items", conf)
	if err != nil {
		t.Fatal(err)
	}
	for _, rows := range [][]limited{{{1, big}, {2, big + 20}, {3, big}}, {{1, big + 30}, {4, big + 20}}} {
		if _, err := tab.Stage(t.Context(), staging.Load[limited]{Batch: staging.Batch{ID: uid.New(), Records: len(rows)}, Rows: rows}); err != nil {
			t.Fatal(err)
		}
		if _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		same(t, pool, r)
		if _, err := r.Rebuild(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
}
