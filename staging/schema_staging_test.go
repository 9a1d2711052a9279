package staging_test

import (
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// An administrator widens columns of the target while rows are staged. The old program goes on.
// When a new one has widened the staging tables, the old one stages no more, but promotes what both
// have staged.
func TestAColumnThatBecomesWider(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	type row struct {
		ID     int64  `db:"id"`
		N      int64  `db:"n"`
		Name   string `db:"name"`
		Note   string `db:"note"`
		Amount string `db:"amount"`
		Total  int64  `db:"total"`
	}
	exec(t, pool, "CREATE TABLE wide (id integer PRIMARY KEY, n smallint DEFAULT 7, name varchar(4), note varchar(4) DEFAULT 'none', amount numeric(4,2), total integer)")
	cfg := staging.Config[row]{Key: []string{"id"}}
	old := newTable(t, pool, "wide", cfg)
	stage(t, old, load(row{1, 1, "name", "note", "12.34", 5}), staging.OutcomeStaged)
	const widen = `ALTER TABLE wide ALTER id TYPE bigint, ALTER n TYPE integer, ALTER n SET DEFAULT 8, ALTER name TYPE varchar(8),
		ALTER note TYPE text, ALTER amount TYPE numeric(8,2), ALTER total TYPE numeric`
	exec(t, pool, widen)
	if p := promote(t, old); p.Rows != 1 {
		t.Errorf("the old program has promoted %+v, want a row", p)
	}
	stage(t, old, load(row{2, 2, "name", "note", "12.34", 5}, row{1, 1, "copy", "copy", "1", 1}), staging.OutcomeStaged)
	cfg.NoCreate = true
	_, err := staging.New(t.Context(), pool, "wide", cfg)
	isDrift(t, "a program that must not create", err, "TYPE bigint", "NoCreate")
	cfg.NoCreate = false
	wide := newTable(t, pool, "wide", cfg)
	newTable(t, pool, "wide", cfg) // nothing is left to change
	if p := promote(t, wide); p.Rows != 1 || p.Conflicts != 1 || p.RejectedByRule != 0 {
		t.Errorf("promoted %+v, want a row and a conflict", p)
	}
	_, err = old.Stage(t.Context(), load(row{3, 2, "name", "note", "12.34", 5}))
	isDrift(t, "the old program stages", err)
	for i, promoter := range []*staging.Table[row]{old, wide} { // either may take the other's turn
		stage(t, wide, load(row{1<<40 + int64(i), 1 << 20, "names", "notes", "123456.78", 6}, row{2, 2, "copy", "copy", "1", 1}), staging.OutcomeStaged)
		if p := promote(t, promoter); p.Rows != 1 || p.Conflicts != 1 || p.RejectedByRule != 0 {
			t.Errorf("promoter %d: promoted %+v, want a row and a conflict", i, p)
		}
	}
	const want = "1 1 name note 12.34 5, 2 2 name note 12.34 5, 1099511627776 1048576 names notes 123456.78 6, 1099511627777 1048576 names notes 123456.78 6"
	if got := query[string](t, pool, "SELECT string_agg(concat_ws(' ', id, n, name, note, amount, total), ', ' ORDER BY id) FROM wide"); got != want {
		t.Errorf("the rows are %s, want %s", got, want)
	}
	if def := query[string](t, pool, "SELECT column_default FROM information_schema.columns WHERE table_name = 'wide_staging_b' AND column_name = 'n'"); def != "8" {
		t.Errorf("the default is %s, want 8", def)
	}

	// A narrower type, or one that rounds, waits until nothing is staged.
	stage(t, wide, load(row{4, 2, "n", "n", "1", 1}), staging.OutcomeStaged)
	for _, narrow := range []string{"id TYPE integer USING 1", "name TYPE varchar(7)", "note TYPE varchar(9)", "amount TYPE numeric(9,1)", "total TYPE bigint", "n TYPE real"} {
		exec(t, pool, "CREATE TABLE saved AS TABLE wide; DELETE FROM wide; ALTER TABLE wide ALTER n DROP DEFAULT; ALTER TABLE wide ALTER "+narrow)
		_, err := staging.New(t.Context(), pool, "wide", cfg)
		isDrift(t, narrow, err, "DiscardStaged")
		exec(t, pool, widen+"; INSERT INTO wide TABLE saved; DROP TABLE saved")
	}
}
