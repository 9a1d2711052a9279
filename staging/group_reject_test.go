package staging_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5/pgxpool"
)

// openRejects counts the open rejects of each table, by the tables and by the counts.
func openRejects(t *testing.T, s sales) map[string]int {
	t.Helper()
	out := map[string]int{}
	for name, table := range map[string]interface {
		Rejects(context.Context, staging.RejectFilter) ([]staging.StoredReject, error)
		CodeCounts(context.Context) ([]staging.CodeCount, error)
	}{"heads": s.heads, "lines": s.lines, "notes": s.notes} {
		list, err := table.Rejects(t.Context(), staging.RejectFilter{})
		if err != nil {
			t.Fatal(err)
		}
		counts, err := table.CodeCounts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, c := range counts {
			n += int(c.Open)
		}
		if n != len(list) {
			t.Errorf("%s has %d open rejects by its counts, want %d", name, n, len(list))
		}
		if n > 0 {
			out[name] = n
		}
	}
	return out
}

// rejectedSales is a group with rejected sales a and b, and a good one.
func rejectedSales(t *testing.T) (sales, *pgxpool.Pool) {
	t.Helper()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	s := openSales(t, pool)
	a, b := goodSale("a", 2), goodSale("b", 1)
	a.Lines[1].SKU = ptr("trigger")
	b.Notes[0].Text = "rule"
	stageGroup(t, s.TableGroup, salesLoad(a, b, goodSale("c", 1)), staging.OutcomeStaged)
	promoteGroup(t, s.TableGroup)
	if got := openRejects(t, s); !cmp.Equal(got, map[string]int{"heads": 2, "lines": 3, "notes": 2}) {
		t.Fatalf("got open rejects %v, want 2 heads, 3 lines, 2 notes", got)
	}
	return s, pool
}

// rejectOf returns the last reject of a sale in a table or group.
func rejectOf(t *testing.T, of interface {
	Rejects(context.Context, staging.RejectFilter) ([]staging.StoredReject, error)
}, key string) int64 {
	t.Helper()
	list, err := of.Rejects(t.Context(), staging.RejectFilter{Key: key})
	if err != nil || len(list) == 0 {
		t.Fatalf("got %d rejects of %s, %v, want one", len(list), key, err)
	}
	return list[len(list)-1].ID
}

// Resolving one reject of a sale resolves them all, from the group, from one of its tables, from a
// program that knows the name of the table only, and from a group of fewer tables.
func TestGroupRecordIsResolvedInEveryTable(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, s sales, pool *pgxpool.Pool) func() (int, error){
		"a table": func(t *testing.T, s sales, _ *pgxpool.Pool) func() (int, error) {
			id := rejectOf(t, s.notes, "a")
			return func() (int, error) { return s.notes.Resolve(t.Context(), id) }
		},
		"the leader": func(t *testing.T, s sales, _ *pgxpool.Pool) func() (int, error) {
			id := rejectOf(t, s.lines, "a")
			return func() (int, error) { return s.lines.Resolve(t.Context(), id) }
		},
		"a name": func(t *testing.T, s sales, pool *pgxpool.Pool) func() (int, error) {
			id := rejectOf(t, s.heads, "a")
			ledger, err := staging.OpenLedger(t.Context(), pool, "heads")
			if err != nil {
				t.Fatal(err)
			}
			return func() (int, error) { return ledger.Resolve(t.Context(), id) }
		},
		"the group": func(t *testing.T, s sales, _ *pgxpool.Pool) func() (int, error) {
			id := rejectOf(t, s, "a")
			return func() (int, error) { return s.Resolve(t.Context(), id) }
		},
		"a group of fewer tables": func(t *testing.T, s sales, _ *pgxpool.Pool) func() (int, error) {
			small := notesFirst(s)
			id := rejectOf(t, small, "a")
			return func() (int, error) { return small.Resolve(t.Context(), id) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, pool := rejectedSales(t)
			resolve := prepare(t, s, pool)
			for _, want := range []int{4, 0} { // the head, two lines, the note
				if n, err := resolve(); err != nil || n != want {
					t.Errorf("got %d resolved, %v, want %d", n, err, want)
				}
			}
			if got := openRejects(t, s); !cmp.Equal(got, map[string]int{"heads": 1, "lines": 1, "notes": 1}) {
				t.Errorf("got open rejects %v, want those of b", got)
			}
		})
	}
}

// A reject of a group is replayed by a group with all its tables. A table alone, and a group of
// fewer tables, refuse it and change nothing.
func TestGroupRecordIsReplayedWhole(t *testing.T) {
	t.Parallel()
	s, pool := rejectedSales(t)
	before := openRejects(t, s)
	_, err := s.notes.Replay(t.Context(), []staging.Correction[saleNote]{{Reject: rejectOf(t, s.notes, "a"), Rows: []saleNote{{"a", "good"}}}})
	if !errors.Is(err, staging.ErrLoad) || !strings.Contains(err.Error(), nameOfSales) {
		t.Errorf("a table: got %v, want ErrLoad with %s", err, nameOfSales)
	}
	small := notesFirst(s)
	fixed := []staging.Correction[sale]{{Reject: rejectOf(t, small, "a"), Rows: []sale{goodSale("a", 2)}}}
	if _, err := small.Replay(t.Context(), fixed); !errors.Is(err, staging.ErrLoad) || !strings.Contains(err.Error(), `"public"."lines"`) {
		t.Errorf("a group of fewer tables: got %v, want ErrLoad with the table that it lacks", err)
	}
	if got := openRejects(t, s); !cmp.Equal(got, before) {
		t.Errorf("got open rejects %v, want %v as before", got, before)
	}
	fixed[0].Reject = rejectOf(t, s, "a")
	if p, err := s.Replay(t.Context(), fixed); err != nil || p.Records != 1 || p.Rows != 4 {
		t.Errorf("the group: got %+v, %v, want 4 rows of 1 record", p, err)
	}
	if got := openRejects(t, s); !cmp.Equal(got, map[string]int{"heads": 1, "lines": 1, "notes": 1}) {
		t.Errorf("got open rejects %v, want those of b", got)
	}
	each, err := s.BooksByTable(t.Context(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range each {
		if err := b.Balanced(); err != nil || b.Records != 4 {
			t.Errorf("%s: %v, %d records, want 4 with the replayed one", b.Table, err, b.Records)
		}
	}
	// Nothing is left to settle in a table that is gone.
	exec(t, pool, "DROP TABLE lines, lines_rejects")
	if n, err := s.notes.Resolve(t.Context(), rejectOf(t, s.notes, "b")); err != nil || n != 2 {
		t.Errorf("without one of the tables: got %d resolved, %v, want 2", n, err)
	}
}

// A reject of a batch that a table has promoted alone, or with fewer others, before it joined the
// group, is replayed there. The group would write rows into tables that the batch was not for.
func TestGroupLeavesRecordsOfItsTablesAlone(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	s := openSales(t, pool)
	small := notesFirst(s)
	stage(t, s.notes, load(saleNote{"a", "rule"}), staging.OutcomeStaged)
	promote(t, s.notes)
	bad := goodSale("b", 0)
	bad.Notes[0].Text = "rule"
	stageGroup(t, small, salesLoad(bad), staging.OutcomeStaged)
	promoteGroup(t, small)
	before := openRejects(t, s)
	for key, of := range map[string]string{"a": `"public"."notes" alone`, "b": nameOfNotes} {
		fixed := []staging.Correction[sale]{{Reject: rejectOf(t, s, key), Rows: []sale{goodSale(key, 1)}}}
		if p, err := s.Replay(t.Context(), fixed); !errors.Is(err, staging.ErrLoad) || !strings.Contains(err.Error(), of) {
			t.Errorf("%s: got %+v, %v, want ErrLoad with %s", key, p, err, of)
		}
	}
	if got := openRejects(t, s); !cmp.Equal(got, before) {
		t.Errorf("got open rejects %v, want %v as before", got, before)
	}
	if n := query[int](t, pool, "SELECT (SELECT count(*) FROM heads) + (SELECT count(*) FROM lines) + (SELECT count(*) FROM notes)"); n != 0 {
		t.Errorf("%d rows were written", n)
	}
	alone := []staging.Correction[saleNote]{{Reject: rejectOf(t, s.notes, "a"), Rows: []saleNote{{"a", "good"}}}}
	if p, err := s.notes.Replay(t.Context(), alone); err != nil || p.Rows != 1 {
		t.Errorf("the table alone: got %+v, %v, want a row", p, err)
	}
	fixed := []staging.Correction[sale]{{Reject: rejectOf(t, small, "b"), Rows: []sale{goodSale("b", 1)}}}
	if p, err := small.Replay(t.Context(), fixed); err != nil || p.Rows != 2 {
		t.Errorf("the group of before: got %+v, %v, want 2 rows", p, err)
	}
	if got := openRejects(t, s); len(got) != 0 {
		t.Errorf("got open rejects %v, want none", got)
	}
}

// The counts of a group are the sums over its tables.
func TestGroupCodeCounts(t *testing.T) {
	t.Parallel()
	s, _ := rejectedSales(t)
	if _, err := s.Resolve(t.Context(), rejectOf(t, s, "b")); err != nil {
		t.Fatal(err)
	}
	got, err := s.CodeCounts(t.Context())
	want := []staging.CodeCount{{Code: "ruled", Resolved: 3}, {Code: "sqlstate_P0001", Open: 4}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
}
