package staging_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

func TestMain(m *testing.M) {
	if os.Getenv(childPoint) != "" {
		child()
	}
	servertest.Main(m)
}

// item is the row of most tests.
type item struct {
	ID   string    `db:"id"`
	N    int64     `db:"n"`
	Note *string   `db:"note"`
	At   time.Time `db:"at"`
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 123456000, time.UTC)

func items(prefix string, n int) []item {
	out := make([]item, n)
	for i := range out {
		out[i] = item{ID: fmt.Sprintf("%s-%04d", prefix, i), N: int64(i), At: noon}
	}
	return out
}

func load[T any](rows ...T) staging.Load[T] {
	return staging.Load[T]{Batch: staging.Batch{ID: uid.New(), Records: len(rows), Attempt: 1, Worker: "w1"}, Rows: rows}
}

func newTable[T any](t testing.TB, pool *pgxpool.Pool, target string, cfg staging.Config[T]) *staging.Table[T] {
	t.Helper()
	tab, err := staging.New(t.Context(), pool, target, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func itemTable(t testing.TB, pool *pgxpool.Pool) *staging.Table[item] {
	t.Helper()
	return newTable(t, pool, "items", staging.Config[item]{Create: true, Key: []string{"id"}})
}

func stage[T any](t testing.TB, tab *staging.Table[T], l staging.Load[T], want staging.Outcome) {
	t.Helper()
	got, err := tab.Stage(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Fatalf("batch %s: %v, want %v", l.Batch.ID, got, want)
	}
}

func promote[T any](t testing.TB, tab *staging.Table[T]) staging.PromoteResult {
	t.Helper()
	p, err := tab.Promote(t.Context(), staging.PromoteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func query[V any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) V {
	t.Helper()
	var v V
	if err := pool.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func exec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func fates[T any](t testing.TB, tab *staging.Table[T], ids ...string) []staging.Fate {
	t.Helper()
	f, err := tab.Fates(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func balanced[T any](t testing.TB, tab *staging.Table[T]) staging.Books {
	t.Helper()
	b, err := tab.Books(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Balanced(); err != nil {
		t.Errorf("%v: %+v", err, b)
	}
	return b
}

func TestABatchGoesThrough(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	l := load(items("a", 100)...)
	if got := fates(t, tab, l.Batch.ID); got[0] != staging.FateUnknown {
		t.Errorf("before: %v", got)
	}
	stage(t, tab, l, staging.OutcomeStaged)
	stage(t, tab, l, staging.OutcomeAlreadyStaged)
	if got := fates(t, tab, l.Batch.ID); got[0] != staging.FateStaged {
		t.Errorf("staged: %v", got)
	}
	p := promote(t, tab)
	want := staging.PromoteResult{Batches: []staging.PromotedBatch{{ID: l.Batch.ID, Fate: staging.FatePromoted}}, Records: 100, Kept: 100, Rows: 100, Epoch: p.Epoch}
	if d := cmp.Diff(want, p); d != "" || p.Epoch == "" {
		t.Errorf("promotion (-want +got):\n%s", d)
	}
	stage(t, tab, l, staging.OutcomeAlreadyPromoted)
	if got := fates(t, tab, l.Batch.ID); got[0] != staging.FatePromoted {
		t.Errorf("promoted: %v", got)
	}
	rows, err := pool.Query(t.Context(), "SELECT id, n, note, at FROM items ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (i item, err error) {
		err = r.Scan(&i.ID, &i.N, &i.Note, &i.At)
		i.At = i.At.UTC()
		return i, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(l.Rows, got); d != "" {
		t.Errorf("rows (-want +got):\n%s", d)
	}
	if p := promote(t, tab); len(p.Batches) != 0 {
		t.Errorf("a second promotion found %+v", p)
	}
	if b := balanced(t, tab); b.Batches != 1 || b.Records != 100 || b.Rows != 100 {
		t.Errorf("books: %+v", b)
	}
}

func TestCountsOfEveryKind(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	rows := items("a", 4)
	l := staging.Load[item]{
		Batch: staging.Batch{ID: uid.New(), Root: uid.New(), Offset: 50, Records: 8}, Rows: rows, Pos: []int32{6, 1, 6, 0}, // not in order, record 6 twice
		Duplicates: 2, Filtered: 1, Rejects: []staging.Reject{{Pos: 4, Key: "k4", Code: "bad", Reason: "no good\x00", Payload: []byte{0xff, 0}}, {Pos: 7, Code: "bad"}},
	}
	l.Batch.Records = 3 + 2 + 1 + 2
	stage(t, tab, l, staging.OutcomeStaged)
	only := staging.Load[item]{Batch: staging.Batch{ID: uid.New(), Records: 3}, Duplicates: 3}
	stage(t, tab, only, staging.OutcomeStaged)
	p := promote(t, tab)
	if len(p.Batches) != 2 || p.Records != 11 || p.Kept != 3 || p.Rows != 4 || p.Duplicates != 5 || p.Filtered != 1 || p.Rejected != 2 || p.Conflicts != 0 {
		t.Errorf("promotion: %+v", p)
	}
	r, err := tab.RejectsByBatch(t.Context(), []string{l.Batch.ID, only.Batch.ID})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]staging.Reject{l.Batch.ID: {
		{Pos: 4, Key: "k4", Code: "bad", Reason: "no good\uFFFD", Payload: []byte{0xff, 0}, Root: l.Batch.Root, Place: 54},
		{Pos: 7, Code: "bad", Root: l.Batch.Root, Place: 57},
	}}
	if d := cmp.Diff(want, r); d != "" {
		t.Errorf("rejects (-want +got):\n%s", d)
	}
	balanced(t, tab)
}

func TestVoid(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	a, b, c := load(items("a", 3)...), load(items("b", 3)...), load(items("c", 3)...)
	void := func(l staging.Load[item], want staging.Fate) {
		t.Helper()
		if f, err := tab.Void(t.Context(), l.Batch); err != nil || f != want {
			t.Errorf("void: %v, %v; want %v", f, err, want)
		}
	}
	void(a, staging.FateVoid)
	void(a, staging.FateVoid)
	stage(t, tab, a, staging.OutcomeAlreadyVoid)
	stage(t, tab, b, staging.OutcomeStaged)
	stage(t, tab, c, staging.OutcomeStaged)
	void(b, staging.FateVoid) // staged already: the ledger drops it
	if got := fates(t, tab, b.Batch.ID, c.Batch.ID); got[0] != staging.FateVoid || got[1] != staging.FateStaged {
		t.Errorf("fates: %v", got)
	}
	p := promote(t, tab)
	want := []staging.PromotedBatch{{ID: c.Batch.ID, Fate: staging.FatePromoted}, {ID: b.Batch.ID, Fate: staging.FateVoid}}
	if d := cmp.Diff(want, p.Batches); d != "" || p.Rows != 3 {
		t.Errorf("promotion %+v (-want +got):\n%s", p, d)
	}
	void(c, staging.FatePromoted)
	if n := query[int](t, pool, "SELECT count(*) FROM items WHERE id LIKE 'c-%'"); n != 3 {
		t.Errorf("%d rows of c", n)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM items"); n != 3 {
		t.Errorf("%d rows", n)
	}
	balanced(t, tab)
}

func TestConflictsAreCountedForEachBatch(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	stage(t, tab, load(items("a", 10)...), staging.OutcomeStaged)
	promote(t, tab)
	one := load(append(items("a", 3), items("b", 5)...)...)
	two := load(append(items("b", 5), items("c", 2)...)...) // b is twice in this promotion
	stage(t, tab, one, staging.OutcomeStaged)
	stage(t, tab, two, staging.OutcomeStaged)
	p := promote(t, tab)
	if p.Rows != 7 || p.Conflicts != 8 {
		t.Errorf("promotion: %+v", p)
	}
	for l, want := range map[*staging.Load[item]]int{&one: 3, &two: 5} {
		if got := query[int](t, pool, "SELECT conflicts FROM items_ledger WHERE id = $1", l.Batch.ID); got != want {
			t.Errorf("batch %s: %d conflicts, want %d", l.Batch.ID, got, want)
		}
	}
	balanced(t, tab)
}

func TestALoadThatDoesNotAddUp(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	for name, l := range map[string]staging.Load[item]{
		"no id":            {Batch: staging.Batch{Records: 1}, Duplicates: 1},
		"not a uuid":       {Batch: staging.Batch{ID: "1", Records: 1}, Duplicates: 1},
		"rows nil":         {Batch: staging.Batch{ID: uid.New(), Records: 1}},
		"too many":         {Batch: staging.Batch{ID: uid.New(), Records: 1}, Duplicates: 2},
		"no records":       {Batch: staging.Batch{ID: uid.New()}},
		"positions":        {Batch: staging.Batch{ID: uid.New(), Records: 1}, Rows: items("a", 1), Pos: []int32{0, 1}},
		"position outside": {Batch: staging.Batch{ID: uid.New(), Records: 1}, Rows: items("a", 1), Pos: []int32{1}},
		"both":             {Batch: staging.Batch{ID: uid.New(), Records: 2}, Rows: items("a", 1), Rejects: []staging.Reject{{Pos: 0}}},
	} {
		if _, err := tab.Stage(t.Context(), l); !errors.Is(err, staging.ErrLoad) {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Log(err)
		}
	}
	if p := promote(t, tab); len(p.Batches) != 0 {
		t.Errorf("something was staged: %+v", p)
	}
}
