package staging_test

import (
	"context"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
)

// An operator of the user between two types that Postgres compares by a cast is taken by none of
// the statements: each has operands of exactly the types of an operator of Postgres.
func TestOperatorsBetweenTypes(t *testing.T) {
	t.Parallel()
	type part struct {
		ID string  `db:"id" dbtype:"varchar(40)"`
		N  int64   `db:"n"`
		F  float64 `db:"f"`
	}
	pool := servertest.Postgres(t)
	exec(t, pool, servertest.HostileOperators(
		"varchar,text,name,smallint,int,bigint,numeric,float8,interval,date,timestamptz,bool,text[],varchar[]", "=,<>,<,<=,>,>=,+,-,*,/,%,&,|,>>,<<"))
	exec(t, pool, `CREATE TABLE parts (id varchar(40) PRIMARY KEY, n bigint CHECK (n <> 7), f float8); CREATE TABLE others (LIKE parts INCLUDING ALL);
		CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER nothing BEFORE INSERT ON others FOR EACH ROW EXECUTE FUNCTION nothing()`)
	for _, conflict := range []staging.Conflict{staging.ConflictSkip, staging.ConflictReplace} {
		cfg := staging.Config[part]{Key: []string{"id"}, Conflict: conflict, Rules: []staging.Rule{{Code: "small", Where: "n < 0"}}}
		tab := newTable(t, pool, "parts", cfg)
		other := newTable(t, pool, "others", cfg)
		group := staging.Group(staging.Into(tab, func(p part) []part { return []part{p} }), staging.Into(other, func(p part) []part { return []part{p, {p.ID + "x", 1, 2}} }))
		for _, rows := range [][]part{{{"x", 1, 1}, {"y", 7, 1}, {"z", -1, 1}}, {{"x", 3, 2}, {"v", 7, 1}}} {
			l := load(rows...)
			l.Stages = []staging.StageDrops{{Stage: "dedup", Duplicates: 1}, {Stage: "wanted", Filtered: 1}}
			l.Duplicates, l.Filtered, l.Batch.Records = 1, 1, l.Batch.Records+2
			stage(t, tab, l, staging.OutcomeStaged)
			promote(t, tab)
			g := load(rows...)
			if _, err := group.Stage(t.Context(), g); err != nil {
				t.Fatal(err)
			}
			if _, err := group.Promote(t.Context(), staging.PromoteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		ledger, err := staging.OpenLedger(t.Context(), pool, "parts")
		if err != nil {
			t.Fatal(err)
		}
		since := time.Unix(0, 0)
		for name, f := range map[string]func(ctx context.Context) error{
			"Books": func(ctx context.Context) error {
				_, err := ledger.BooksBetween(ctx, since, since.AddDate(100, 0, 0))
				return err
			},
			"BooksSince":  func(ctx context.Context) error { _, err := tab.BooksSince(ctx, since); return err },
			"StageCounts": func(ctx context.Context) error { _, err := tab.StageCounts(ctx, since); return err },
			"CodeCounts":  func(ctx context.Context) error { _, err := tab.CodeCounts(ctx); return err },
			"Stats":       func(ctx context.Context) error { _, err := tab.Stats(ctx); return err },
			"Advise":      func(ctx context.Context) error { _, err := tab.Advise(ctx); return err },
			"Clock":       func(ctx context.Context) error { _, err := tab.Clock(ctx); return err },
			"Epoch":       func(ctx context.Context) error { _, err := tab.Epoch(ctx); return err },
			"FindKey":     func(ctx context.Context) error { _, err := tab.FindKey(ctx, "x"); return err },
			"FindBatches": func(ctx context.Context) error { _, err := tab.FindBatches(ctx, uid.New()); return err },
			"FindSealed": func(ctx context.Context) error {
				_, err := tab.FindSealed(ctx, since, since.AddDate(100, 0, 0), 5)
				return err
			},
			"Rejects":        func(ctx context.Context) error { _, err := group.Rejects(ctx, staging.RejectFilter{}); return err },
			"RejectsByBatch": func(ctx context.Context) error { _, err := tab.RejectsByBatch(ctx, []string{uid.New()}); return err },
			"Fates":          func(ctx context.Context) error { _, err := tab.Fates(ctx, []string{uid.New()}); return err },
			"Void":           func(ctx context.Context) error { _, err := tab.Void(ctx, load(part{}).Batch); return err },
			"Resolve":        func(ctx context.Context) error { _, err := tab.Resolve(ctx, 1, 2); return err },
			"Prune":          func(ctx context.Context) error { _, err := tab.Prune(ctx, since); return err },
			"group books":    func(ctx context.Context) error { _, err := group.BooksByTable(ctx, since); return err },
			"group stages":   func(ctx context.Context) error { _, err := group.StageCounts(ctx, since); return err },
			"Verify":         func(ctx context.Context) error { return group.Check(ctx) },
		} {
			if err := f(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
