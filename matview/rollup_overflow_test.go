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

// A sum that exceeds its type fails the promotion, and the error names the merge and the type's
// limit. No row is rejected, and with a wider type the same batches are promoted.
func TestSumBeyondItsType(t *testing.T) {
	t.Parallel()
	type amount struct {
		ID int64  `db:"id"`
		V  string `db:"v_text"`
	}
	for _, c := range []struct{ typ, most, wider, expr, sum, average string }{
		{"bigint", "9223372036854775807", "numeric", "v", "18446744073709551614", "9223372036854775807"},
		{"numeric(5,2)", "999.99", "numeric", "v", "1999.98", "999.99"},
		{"money", "92233720368547758.07", "numeric", "v::numeric", "184467440737095516.14", "92233720368547758.07"},
		{"interval", "178000000 years", "numeric", "extract(year FROM v)", "356000000", "178000000"},
	} {
		for _, replaces := range []bool{false, true} {
			t.Run(fmt.Sprint(c.typ, replaces), func(t *testing.T) {
				t.Parallel()
				pool := servertest.Postgres(t)
				exec(t, pool, `CREATE TABLE amounts (id bigint PRIMARY KEY, v_text text, v `+c.typ+`);
					CREATE FUNCTION typed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := NEW.v_text; RETURN NEW; END $$;
					CREATE TRIGGER typed BEFORE INSERT ON amounts FOR EACH ROW EXECUTE FUNCTION typed()`)
				open := func(typ, expr string) *staging.Table[amount] {
					r := matview.Rollup{
						Table: "totals", From: "amounts", Replaces: replaces, GroupBy: []matview.Column{{Name: "k", Expr: "id % 1", Type: "bigint"}},
						Measures: []matview.Measure{
							{Name: "total", Expr: expr, Type: typ, Aggregate: matview.AggregateSum},
							{Name: "mean", Expr: expr, Type: typ, Aggregate: matview.AggregateAverage},
						},
					}
					if err := r.Create(t.Context(), pool); err != nil {
						t.Fatal(err)
					}
					merges, err := r.Merges()
					if err != nil {
						t.Fatal(err)
					}
					cfg := staging.Config[amount]{Key: []string{"id"}}
					if replaces {
						cfg.Conflict = staging.ConflictReplace
					}
					for _, m := range merges {
						cfg.Merges = append(cfg.Merges, staging.Merge(m))
					}
					tab, err := staging.New(t.Context(), pool, "amounts", cfg)
					if err != nil {
						t.Fatal(err)
					}
					return tab
				}
				tab := open(c.typ, "v")
				for id := range 2 {
					if _, err := tab.Stage(t.Context(), staging.Load[amount]{Batch: staging.Batch{ID: uid.New(), Records: 1}, Rows: []amount{{int64(id), c.most}}}); err != nil {
						t.Fatal(err)
					}
				}
				for range 2 {
					_, err := tab.Promote(t.Context(), staging.PromoteOptions{})
					if !errors.Is(err, staging.ErrMerge) || !strings.Contains(err.Error(), `"totals"`) {
						t.Errorf("Promote is %v, want ErrMerge for the merge", err)
					}
				}
				exec(t, pool, `DROP TABLE totals`)
				tab = open(c.wider, c.expr)
				result, err := tab.Promote(t.Context(), staging.PromoteOptions{})
				if err != nil || result.Rows != 2 || result.RejectedByRule != 0 {
					t.Errorf("with type %s: %+v, %v; want two rows and no rejects", c.wider, result, err)
				}
				want(t, "sum", one[string](t, pool, `SELECT trim_scale(total)::text FROM totals`), c.sum)
				want(t, "average", one[string](t, pool, `SELECT trim_scale(mean)::text FROM totals`), c.average)
			})
		}
	}
}
