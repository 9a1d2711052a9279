package together_test

import (
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/staging"
)

// An empty database: staging makes the target, then the roll-up is made from it.
func TestRollupOfATargetThatStagingMakes(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	type visit struct {
		ID   int64  `db:"id"`
		Page string `db:"page"`
	}
	pages := matview.Rollup{
		Table: "pages", From: "visits", GroupBy: []matview.Column{{Name: "page", Type: "text"}},
		Measures: []matview.Measure{
			{Name: "visits", Aggregate: matview.AggregateCount},
			{Name: "ids", Expr: "id", Type: "bigint", Aggregate: matview.AggregateDistinct},
		},
	}
	merges, err := pages.Merges()
	if err != nil {
		t.Fatal(err)
	}
	cfg := staging.Config[visit]{Key: []string{"id"}, Create: true}
	for _, m := range merges {
		cfg.Merges = append(cfg.Merges, staging.Merge(m))
	}
	open := func() *staging.Table[visit] {
		t.Helper()
		table, err := staging.New(t.Context(), pool, "visits", cfg)
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	open()
	table := open() // another program, before the roll-up is there
	load := staging.Load[visit]{
		Batch: staging.Batch{ID: staging.NewBatchID(), Records: 2}, Rows: []visit{{1, "home"}, {2, "home"}}, Pos: []int32{0, 1},
	}
	if _, err := table.Stage(t.Context(), load); err != nil {
		t.Fatal(err)
	}
	if p, err := table.Promote(t.Context(), staging.PromoteOptions{}); err == nil || !strings.Contains(err.Error(), "pages") || p.Rejected != 0 {
		t.Errorf("promotion without the roll-up: got %+v, %v, want an error that names it", p, err)
	}
	if err := pages.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if p, err := table.Promote(t.Context(), staging.PromoteOptions{}); err != nil || p.Rows != 2 {
		t.Errorf("promotion: got %+v, %v, want 2 rows", p, err)
	}
	var visits, ids int64
	if err := pool.QueryRow(t.Context(), "SELECT visits, ids FROM pages WHERE page = 'home'").Scan(&visits, &ids); err != nil || visits != 2 || ids != 2 {
		t.Errorf("got %d visits and %d ids, %v, want 2 and 2", visits, ids, err)
	}
	cfg.Merges[0].SQL = "nonsense"
	if _, err := staging.New(t.Context(), pool, "visits", cfg); err == nil {
		t.Error("New with a merge that is no SQL: no error")
	}
	cfg.Create, cfg.Merges[0].SQL = false, strings.ReplaceAll(merges[0].SQL, "pages", "nosuch")
	if _, err := staging.New(t.Context(), pool, "visits", cfg); err == nil || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("New without Create, of a merge into a missing table: got %v", err)
	}
}
