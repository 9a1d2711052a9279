package staging_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// notesOf is the load of a batch that a program of the table notes alone makes.
func notesOf(l staging.Load[sale]) staging.Load[saleNote] {
	out := staging.Load[saleNote]{Batch: l.Batch}
	for _, s := range l.Rows {
		out.Rows = append(out.Rows, s.Notes...)
	}
	return out
}

// notesFirst is a group that notes lead.
func notesFirst(s sales) *staging.TableGroup[sale] {
	return staging.Group(
		staging.Into(s.notes, func(s sale) []saleNote { return s.Notes }),
		staging.Into(s.heads, func(s sale) []saleHead { return s.Heads }),
	)
}

const (
	nameOfSales = `"public"."lines" + "public"."notes" + "public"."heads"`
	nameOfNotes = `"public"."notes" + "public"."heads"`
)

// otherMembers fails the test unless err is ErrConfig about a batch, and names both compositions.
func otherMembers(t *testing.T, err error, id, before, now string) {
	t.Helper()
	for _, want := range []string{id, before + ", and this group is " + now, "drain"} {
		if !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want ErrConfig with %q", err, want)
		}
	}
}

// A batch that the group voids cannot come in later through one of its tables, whether a program of
// that table alone has staged it already or stages it then.
func TestGroupVoidsInEveryTable(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g := openSales(t, pool)
	before, after, done := salesLoad(goodSale("a", 1)), salesLoad(goodSale("b", 1)), salesLoad(goodSale("c", 1))
	stage(t, g.notes, notesOf(before), staging.OutcomeStaged)
	for range 2 {
		for _, l := range []staging.Load[sale]{before, after} {
			if f, err := g.Void(t.Context(), l.Batch); err != nil || f != staging.FateVoid {
				t.Errorf("void: got %v, %v, want void", f, err)
			}
		}
	}
	stage(t, g.notes, notesOf(after), staging.OutcomeAlreadyVoid)
	if p := promote(t, g.notes); p.Rows != 0 || len(p.Batches) != 1 || p.Batches[0].Fate != staging.FateVoid {
		t.Errorf("notes alone: got %+v, want the batch void", p)
	}
	for _, target := range salesTargets {
		if n := query[int](t, pool, "SELECT count(*) FROM "+target+"_ledger WHERE kind = 'void'"); n != 2 {
			t.Errorf("got %d void batches in the ledger of %s, want 2", n, target)
		}
	}
	// One table has promoted it already: no ledger gets the void.
	stage(t, g.notes, notesOf(done), staging.OutcomeStaged)
	promote(t, g.notes)
	_, err := g.Void(t.Context(), done.Batch)
	otherMembers(t, err, done.Batch.ID, `"public"."notes" alone`, nameOfSales)
	if n := query[int](t, pool, "SELECT count(*) FROM lines_ledger WHERE id = $1::text::uuid", done.Batch.ID); n != 0 {
		t.Errorf("got %d entries in the leader's ledger, want none", n)
	}
	if f, err := g.Void(t.Context(), salesLoad(goodSale("d", 1)).Batch); err != nil || f != staging.FateVoid {
		t.Errorf("another batch: got %v, %v, want void", f, err)
	}
	// A batch that one table alone has made void is void for the group.
	alone := salesLoad(goodSale("e", 1))
	if f, err := g.notes.Void(t.Context(), alone.Batch); err != nil || f != staging.FateVoid {
		t.Errorf("void of notes alone: got %v, %v, want void", f, err)
	}
	groupFate(t, g.TableGroup, alone.Batch.ID, staging.FateVoid)
	stageGroup(t, g.TableGroup, alone, staging.OutcomeAlreadyVoid)
	balanced(t, g.notes)
}

// A group does not take a batch for promoted that was promoted into a part of it: by a member
// alone, by a group of fewer members, by one with another leader. Every call returns the error with
// both compositions, or delivers the batch again. The members of before take it as promoted.
func TestGroupDoesNotTakeAPartForTheWhole(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g := openSales(t, pool)
	linesAlone := func(l staging.Load[sale]) staging.Load[saleLine] {
		out := staging.Load[saleLine]{Batch: l.Batch}
		for _, s := range l.Rows {
			out.Rows = append(out.Rows, s.Lines...)
		}
		return out
	}
	exec(t, pool, "INSERT INTO heads VALUES ('lead', 'good', 1)")
	lead, member, fewer := salesLoad(goodSale("lead", 1)), salesLoad(goodSale("member", 1)), salesLoad(goodSale("fewer", 1))
	stage(t, g.lines, linesAlone(lead), staging.OutcomeStaged)
	promote(t, g.lines)
	stage(t, g.notes, notesOf(member), staging.OutcomeStaged)
	promote(t, g.notes)
	small := notesFirst(g)
	stageGroup(t, small, fewer, staging.OutcomeStaged)
	promoteGroup(t, small)
	for _, c := range []struct {
		l      staging.Load[sale]
		before string
	}{{lead, `"public"."lines" alone`}, {member, `"public"."notes" alone`}, {fewer, "the group " + nameOfNotes}} {
		_, err := g.Stage(t.Context(), c.l)
		otherMembers(t, err, c.l.Batch.ID, c.before, nameOfSales)
		_, err = g.Void(t.Context(), c.l.Batch)
		otherMembers(t, err, c.l.Batch.ID, c.before, nameOfSales)
		groupFate(t, g.TableGroup, c.l.Batch.ID, staging.FateUnknown)
	}
	stage(t, g.lines, linesAlone(lead), staging.OutcomeAlreadyPromoted)
	stageGroup(t, small, fewer, staging.OutcomeAlreadyPromoted)
	groupFate(t, small, fewer.Batch.ID, staging.FatePromoted)
	// A group of fewer tables, with any of them as its leader, has all of it.
	whole := salesLoad(goodSale("whole", 2))
	stageGroup(t, g.TableGroup, whole, staging.OutcomeStaged)
	promoteGroup(t, g.TableGroup)
	stageGroup(t, small, whole, staging.OutcomeAlreadyPromoted)
	groupFate(t, small, whole.Batch.ID, staging.FatePromoted)
	if f, err := small.Void(t.Context(), whole.Batch); err != nil || f != staging.FatePromoted {
		t.Errorf("void of a promoted batch: got %v, %v, want promoted", f, err)
	}
	stage(t, g.notes, notesOf(whole), staging.OutcomeAlreadyPromoted)
	// An older layout did not record the tables: its leader decided.
	exec(t, pool, "UPDATE lines_ledger SET tables = NULL WHERE id = '"+lead.Batch.ID+"'")
	stageGroup(t, g.TableGroup, lead, staging.OutcomeAlreadyPromoted)
}

// A batch that both the group and a table alone have staged is promoted by one of them. If that is
// the table alone, the group sets the batch aside, whether that table leads it or not.
func TestGroupIsLaterThanItsMember(t *testing.T) {
	t.Parallel()
	for _, leads := range []bool{false, true} {
		t.Run(fmt.Sprint("leader ", leads), func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, salesTables)
			s := openSales(t, pool)
			g, name := s.TableGroup, nameOfSales
			if leads {
				g, name = notesFirst(s), nameOfNotes
			}
			l := salesLoad(goodSale("a", 1))
			stageGroup(t, g, l, staging.OutcomeStaged)
			// The table alone stages it into the other side.
			exec(t, pool, "UPDATE notes_control SET open = CASE open WHEN 'a' THEN 'b' ELSE 'a' END")
			stage(t, newTable(t, pool, "notes", salesConfigs(staging.RoleAll).notes), notesOf(l), staging.OutcomeStaged)
			if p := promote(t, s.notes); p.Rows != 1 {
				t.Errorf("notes alone: got %+v, want its row", p)
			}
			groupFate(t, g, l.Batch.ID, staging.FateStaged)
			if p := promoteGroup(t, g); p.Rows != 0 || len(p.Batches) != 0 || !slices.Equal(p.Mismatched, []string{l.Batch.ID}) {
				t.Errorf("the group: got %+v, want the batch set aside", p)
			}
			groupFate(t, g, l.Batch.ID, staging.FateUnknown)
			_, err := g.Stage(t.Context(), l)
			otherMembers(t, err, l.Batch.ID, `"public"."notes" alone`, name)
			if got := rowsOf(t, pool, "heads"); len(got) != 0 {
				t.Errorf("got heads %v, want none", got)
			}
			for _, target := range []string{"heads", "lines"} {
				if n := query[int](t, pool, "SELECT count(*) FROM "+target+"_ledger"); n != 0 {
					t.Errorf("got %d entries in the ledger of %s, want none", n, target)
				}
			}
			balanced(t, s.notes)
		})
	}
}

// What is staged for other members stops the batch with an error that names both, and DiscardStaged
// gives it back.
func TestGroupFindsABatchOfOthersStaged(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	s := openSales(t, pool)
	g := notesFirst(s)
	alone, grouped := salesLoad(goodSale("a", 1)), salesLoad(goodSale("b", 1))
	stage(t, s.notes, notesOf(alone), staging.OutcomeStaged)
	stageGroup(t, s.TableGroup, grouped, staging.OutcomeStaged)
	_, err := g.Stage(t.Context(), alone)
	otherMembers(t, err, alone.Batch.ID, `"public"."notes" alone`, nameOfNotes)
	_, err = g.Stage(t.Context(), grouped)
	otherMembers(t, err, grouped.Batch.ID, "the group "+nameOfSales, nameOfNotes)
	for _, target := range salesTargets {
		if _, err := staging.DiscardStaged(t.Context(), pool, target); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range []staging.Load[sale]{alone, grouped} {
		groupFate(t, g, l.Batch.ID, staging.FateUnknown)
		stageGroup(t, g, l, staging.OutcomeStaged)
	}
	if p := promoteGroup(t, g); p.Rows != 4 {
		t.Errorf("got %+v, want 4 rows", p)
	}
	for _, target := range []string{"heads", "notes"} {
		if got := rowsOf(t, pool, target); !cmp.Equal(got, map[string]int{"a": 1, "b": 1}) {
			t.Errorf("got %s %v, want one of each sale", target, got)
		}
	}
}

// The floor of one member's ledger is enough to refuse a batch: that ledger may have lost it.
func TestGroupRefusesWhatOneLedgerMayHaveLost(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g := openSales(t, pool)
	l := salesLoad(goodSale("a", 1))
	l.Batch.Sealed = time.Now().Add(-2 * time.Hour)
	if _, err := g.heads.Prune(t.Context(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Stage(t.Context(), l); !errors.Is(err, staging.ErrTooOld) {
		t.Errorf("got %v, want ErrTooOld", err)
	}
}

// A batch of a group that is left in a table's staging does not keep the rows of the table's own
// batches there, and Stats shows it. So does the batch of one table in the staging of a group.
func TestForeignBatchesDoNotKeepPromotedRows(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g := openSales(t, pool)
	stageGroup(t, g.TableGroup, salesLoad(goodSale("left", 1)), staging.OutcomeStaged)
	left := func(table string) int {
		return query[int](t, pool, "SELECT (SELECT count(*) FROM "+table+"_a) + (SELECT count(*) FROM "+table+"_b)")
	}
	for i := range 10 {
		l := load(saleNote{fmt.Sprint("a", i), "good"}, saleNote{fmt.Sprint("b", i), "\x00"})
		stage(t, g.notes, l, staging.OutcomeStaged)
		if p := promote(t, g.notes); p.Rows != 1 || p.Rejected != 1 {
			t.Errorf("promoted %+v, want 1 row and 1 reject", p)
		}
	}
	if rows, batches, refused := left("notes_staging"), left("notes_registry"), left("notes_refused"); rows != 1 || batches != 1 || refused != 0 {
		t.Errorf("%d rows of %d batches and %d refused are staged, want those of the group's batch: 1 of 1, and 0", rows, batches, refused)
	}
	if s := stats(t, g.notes); s.Foreign != 1 {
		t.Errorf("stats of the table: %+v, want 1 foreign batch", s)
	}
	stage(t, g.notes, load(saleNote{"alone", "good"}), staging.OutcomeStaged)
	for i := range 3 {
		promoteGroup(t, g.TableGroup)
		stageGroup(t, g.TableGroup, salesLoad(goodSale(fmt.Sprint("g", i), 2)), staging.OutcomeStaged)
	}
	for p := promoteGroup(t, g.TableGroup); len(p.Batches) > 0; p = promoteGroup(t, g.TableGroup) {
	}
	if rows, lines := left("notes_staging"), left("lines_staging"); rows != 1 || lines != 0 {
		t.Errorf("%d notes and %d lines are staged, want the note of the table alone", rows, lines)
	}
	if s, err := g.Stats(t.Context()); err != nil || s.Foreign != 1 || s.Batches != 0 {
		t.Errorf("stats of the group: %+v, %v, want 1 foreign batch", s, err)
	}
	if p := promote(t, g.notes); p.Rows != 1 {
		t.Errorf("promoted %+v, want the note", p)
	}
	if got := rowsOf(t, pool, "notes"); len(got) != 15 {
		t.Errorf("notes of %d sales, want 15", len(got))
	}
}
