package matview_test

import (
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/staging"
)

// part is a row of a table whose slots are unique too: a promotion that moves a slot inserts its
// rows in parts.
type part struct {
	ID   int64  `db:"id"`
	Slot string `db:"slot"`
	K    string `db:"k"`
}

// openParts opens the table with a roll-up by k.
func openParts(t *testing.T, measures ...matview.Measure) (promote func(batches ...[]part)) {
	t.Helper()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE parts (id bigint PRIMARY KEY, slot text NOT NULL UNIQUE, k text)`)
	r := matview.Rollup{Table: "groups", From: "parts", Replaces: true, GroupBy: []matview.Column{{Name: "k", Type: "text"}}, Measures: measures}
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	merges, err := r.Merges()
	if err != nil {
		t.Fatal(err)
	}
	cfg := staging.Config[part]{Key: []string{"id"}, Conflict: staging.ConflictReplace}
	for _, m := range merges {
		cfg.Merges = append(cfg.Merges, staging.Merge(m))
	}
	tab, err := staging.New(t.Context(), pool, "parts", cfg)
	if err != nil {
		t.Fatal(err)
	}
	return func(batches ...[]part) {
		t.Helper()
		for _, rows := range batches {
			if _, err := tab.Stage(t.Context(), staging.Load[part]{Batch: staging.Batch{ID: uid.New(), Records: len(rows)}, Rows: rows}); err != nil {
				t.Fatal(err)
			}
		}
		if p, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err != nil || p.RejectedByRule > 0 {
			t.Fatalf("Promote: %+v, %v", p, err)
		}
		if diffs, err := r.Check(t.Context(), pool, 0); err != nil || len(diffs) > 0 {
			t.Errorf("Check: %v, %v", diffs, err)
		}
	}
}

// TestGroupEmptyWithinAPromotion: one part of a promotion takes the last row of a group, and a
// later part brings another.
func TestGroupEmptyWithinAPromotion(t *testing.T) {
	t.Parallel()
	for name, measures := range map[string][]matview.Measure{
		"count":    {{Name: "n", Aggregate: matview.AggregateCount}},
		"distinct": {{Name: "n", Expr: "slot", Type: "text", Aggregate: matview.AggregateDistinct}},
		"sum":      {{Name: "n", Expr: "id", Aggregate: matview.AggregateSum}},
		"max":      {{Name: "n", Expr: "id", Type: "bigint", Aggregate: matview.AggregateMax}},
		"sketch":   {{Name: "n", Expr: "id", Precision: 4, Aggregate: matview.AggregateSketch}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			promote := openParts(t, measures...)
			promote([]part{{30, "p", "x"}})
			promote([]part{{30, "q", "y"}, {8, "p", "z"}}, []part{{9, "r", "x"}})
			promote([]part{{9, "s", "y"}})
		})
	}
}
