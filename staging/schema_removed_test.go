package staging_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

var negatives = []staging.Rule{{Code: "negative", Where: "n < 0"}}

// mixed is a batch with a good row, a row that breaks a rule, and a record that was rejected
// before.
func mixed(id string) staging.Load[item] {
	l := load(items(id, 2)...)
	l.Rows[1].N = -1
	l.Batch.Records++ // a record without a row
	l.Rejects = []staging.Reject{{Pos: 2, Code: "no_json", Reason: "unexpected end", Payload: []byte("{")}}
	return l
}

// promoteRest promotes what is staged.
func promoteRest(t *testing.T, tab *staging.Table[item]) {
	t.Helper()
	for more := true; more; {
		p, err := tab.Promote(t.Context(), staging.PromoteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		more = p.More
	}
}

// What an administrator removes from the companion tables is named with the way back. Nothing is
// lost: after the way back the batches are promoted, or known not to be there and staged again.
func TestRemovedByHand(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, remove, says, back string }{
		{"the control row", "DELETE FROM items_control", `"items_control" has lost its one row: INSERT INTO`, `INSERT INTO items_control (target, open) VALUES ('"public"."items"', 'a')`},
		{"the ledger's index", "ALTER TABLE items_ledger DROP CONSTRAINT items_ledger_pkey", `ALTER TABLE "public"."items_ledger" ADD PRIMARY KEY (id)`, "ALTER TABLE items_ledger ADD PRIMARY KEY (id)"},
		{"the rows' tables", "DROP TABLE items_staging_a, items_staging_b", "New creates what is missing", ""},
		{"the registries", "DROP TABLE items_registry_a, items_registry_b", "New creates what is missing", ""},
		{"the ledger", "DROP TABLE items_ledger", "New creates what is missing", ""},
		{"a column of the ledger", "ALTER TABLE items_ledger DROP COLUMN stages", "New creates what is missing, or names it", "ALTER TABLE items_ledger ADD COLUMN stages text"},
		{"the rows' own column", "ALTER TABLE items_staging_a DROP COLUMN hr_record; ALTER TABLE items_staging_b DROP COLUMN hr_record", "New creates what is missing, or names it", "DROP TABLE items_staging_a, items_staging_b"},
		{"a column of the registries", "ALTER TABLE items_registry_a DROP COLUMN stages; ALTER TABLE items_registry_b DROP COLUMN stages", "New creates what is missing, or names it", "DROP TABLE items_registry_a, items_registry_b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			cfg := staging.Config[item]{Rules: negatives, Create: true, Key: []string{"id"}}
			tab := newTable(t, pool, "items", cfg)
			stage(t, tab, mixed("before"), staging.OutcomeStaged)
			promoteRest(t, tab)
			l := mixed("b")
			stage(t, tab, l, staging.OutcomeStaged)
			exec(t, pool, c.remove)
			if _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Promote: %v, want an error with %q", err, c.says)
			}
			if _, err := tab.Stage(t.Context(), mixed("c")); err != nil && !strings.Contains(err.Error(), c.says) && !errors.Is(err, staging.ErrDrift) {
				t.Errorf("Stage: %v, want %q or ErrDrift", err, c.says)
			}
			if c.back != "" {
				if _, err := staging.New(t.Context(), pool, "items", cfg); !errors.Is(err, staging.ErrDrift) {
					t.Errorf("New: %v, want ErrDrift", err)
				}
				exec(t, pool, c.back)
			}
			tab = newTable(t, pool, "items", cfg)
			promoteRest(t, tab)
			for range 2 { // as reconciles do; what is left in a side sets the first batch there aside
				if fates(t, tab, l.Batch.ID)[0] == staging.FateUnknown {
					stage(t, tab, l, staging.OutcomeStaged)
					promoteRest(t, tab)
				}
			}
			if n := query[int](t, pool, "SELECT count(*) FROM items WHERE id LIKE 'b%'"); n != 2 { // one of each batch
				t.Errorf("%d rows, want 2", n)
			}
			if n := query[int](t, pool, "SELECT count(*) FROM items_rejects WHERE batch = '"+l.Batch.ID+"'"); n != 2 {
				t.Errorf("%d rejects, want 2", n)
			}
		})
	}
}

// Every call about a target without its control row returns the error, and none panics.
func TestNoCallNeedsTheControlRow(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := newTable(t, pool, "items", staging.Config[item]{Create: true, Key: []string{"id"}, Lanes: 2})
	parent := newTable(t, pool, "parents", staging.Config[item]{Create: true, Key: []string{"id"}})
	child := newTable(t, pool, "children", staging.Config[item]{Create: true, Key: []string{"id"}})
	same := func(x item) []item { return []item{x} }
	group := staging.Group(staging.Into(parent, same), staging.Into(child, same))
	stage(t, tab, load(items("a", 2)...), staging.OutcomeStaged)
	exec(t, pool, "DELETE FROM items_control; DELETE FROM parents_control; DELETE FROM children_control")
	id := staging.NewBatchID()
	for name, call := range map[string]func() error{
		"Stage": func() error { _, err := tab.Stage(t.Context(), load(items("b", 1)...)); return err },
		"StageTx": func() error {
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(t.Context()) //nolint:errcheck // nothing was written
			_, err = tab.StageTx(t.Context(), tx, load(items("b", 1)...))
			return err
		},
		"Promote":         func() error { _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); return err },
		"Promote a lane":  func() error { _, err := tab.Promote(t.Context(), staging.PromoteOptions{Lane: 2}); return err },
		"Fates":           func() error { _, err := tab.Fates(t.Context(), []string{id}); return err },
		"Stats":           func() error { _, err := tab.Stats(t.Context()); return err },
		"FindBatches":     func() error { _, err := tab.FindBatches(t.Context(), id); return err },
		"FindSealed":      func() error { _, err := tab.FindSealed(t.Context(), noon, noon, 1); return err },
		"RetireLanes":     func() error { _, err := staging.RetireLanes(t.Context(), pool, "items", 1); return err },
		"New":             func() error { _, err := staging.New(t.Context(), pool, "items", staging.Config[item]{}); return err },
		"a group's Stage": func() error { _, err := group.Stage(t.Context(), load(items("b", 1)...)); return err },
		"a group's Promote": func() error {
			_, err := group.Promote(t.Context(), staging.PromoteOptions{})
			return err
		},
	} {
		if err := call(); !errors.Is(err, staging.ErrDrift) || !strings.Contains(err.Error(), "has lost its one row") {
			t.Errorf("%s: %v, want ErrDrift about the control row", name, err)
		}
	}
}

// A crash would empty an UNLOGGED ledger, and its batches would come twice. So it is refused, and
// so are rejects and the floor that a crash would empty.
func TestUnloggedBookkeeping(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"items_ledger", "items_rejects", "items_control"} {
		pool := servertest.Postgres(t)
		cfg := staging.Config[item]{Create: true, Key: []string{"id"}, AllowUnlogged: true}
		tab := newTable(t, pool, "items", cfg)
		stage(t, tab, load(items("a", 2)...), staging.OutcomeStaged)
		exec(t, pool, "ALTER TABLE "+table+" SET UNLOGGED")
		_, perr := tab.Promote(t.Context(), staging.PromoteOptions{})
		_, nerr := staging.New(t.Context(), pool, "items", cfg)
		for _, err := range []error{perr, nerr} {
			if !errors.Is(err, staging.ErrUnlogged) || !strings.Contains(err.Error(), table) {
				t.Errorf("%s: %v, want ErrUnlogged with the table", table, err)
			}
		}
		exec(t, pool, "ALTER TABLE "+table+" SET LOGGED")
		promoteRest(t, tab)
		count(t, pool, 2)
	}
}

// A trigger that drops rows of the companion tables costs no record: the promotion
// fails, names the table, and goes on once the trigger is gone.
func TestATriggerDropsOurOwnRows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, table string
		batch       func(id string) staging.Load[item]
		rejects     int
	}{
		{"the ledger", "items_ledger", mixed, 2},
		{"records rejected before", "items_rejects", func(id string) staging.Load[item] { l := mixed(id); l.Rows[1].N = 1; return l }, 1},
		{"rows that break a rule", "items_rejects", func(id string) staging.Load[item] {
			l := load(items(id, 2)...)
			l.Rows[1].N = -1
			return l
		}, 1},
		{"rows that the target refuses", "items_rejects", func(id string) staging.Load[item] {
			l := load(items(id, 2)...)
			l.Rows[1].N = 13
			return l
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			tab := newTable(t, pool, "items", staging.Config[item]{Create: true, Key: []string{"id"}, Rules: negatives})
			exec(t, pool, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.n = 13 THEN RAISE 'unlucky'; END IF; RETURN NEW; END $$;
				CREATE TRIGGER refuse BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION refuse();
				CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
				CREATE TRIGGER mean BEFORE INSERT ON `+c.table+` FOR EACH ROW EXECUTE FUNCTION drop_row()`)
			stage(t, tab, c.batch("a"), staging.OutcomeStaged)
			if p, err := tab.Promote(t.Context(), staging.PromoteOptions{}); !errors.Is(err, staging.ErrDrift) || !strings.Contains(err.Error(), c.table) {
				t.Errorf("promoted %d batches, %v, want ErrDrift with the table", len(p.Batches), err)
			}
			exec(t, pool, "DROP TRIGGER mean ON "+c.table)
			promoteRest(t, tab)
			if n := query[int](t, pool, "SELECT count(*) FROM items_rejects"); n != c.rejects {
				t.Errorf("%d rejects, want %d", n, c.rejects)
			}
			if b, err := tab.Books(t.Context()); err != nil || b.Balanced() != nil || b.Batches != 1 {
				t.Errorf("%d batches, %v, %v", b.Batches, b.Balanced(), err)
			}
		})
	}
}

// So it is with the tables of each member of a group.
func TestATriggerDropsRowsOfAMember(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"lines_ledger", "heads_ledger", "notes_ledger", "lines_rejects", "heads_rejects", "notes_rejects"} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, salesTables)
			s := openSales(t, pool)
			exec(t, pool, `CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
				CREATE TRIGGER mean BEFORE INSERT ON `+table+` FOR EACH ROW EXECUTE FUNCTION drop_row()`)
			bad := goodSale("bad", 2)
			bad.Lines[1].N = -1
			stageGroup(t, s.TableGroup, salesLoad(goodSale("a", 2), bad), staging.OutcomeStaged)
			p, err := s.Promote(t.Context(), staging.PromoteOptions{})
			if !errors.Is(err, staging.ErrDrift) || !strings.Contains(err.Error(), table) {
				t.Errorf("promoted %+v, %v, want ErrDrift with the table", p, err)
			}
			exec(t, pool, "DROP TRIGGER mean ON "+table)
			if p, err := s.Promote(t.Context(), staging.PromoteOptions{}); err != nil || p.Records != 2 || len(p.Mismatched) > 0 {
				t.Errorf("promoted %+v, %v, want both records", p, err)
			}
			if got := openRejects(t, s); !cmp.Equal(got, map[string]int{"heads": 1, "lines": 2, "notes": 1}) {
				t.Errorf("got open rejects %v", got)
			}
		})
	}
}
