package staging_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
)

// Each place that a key or a batch can be in.
func TestFind(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := newTable(t, pool, "items", staging.Config[item]{Create: true, Key: []string{"id"},
		Rules: []staging.Rule{{Code: "negative", Where: "n < 0"}}})
	finder, err := staging.NewFinder(t.Context(), pool, "items", "")
	if err != nil {
		t.Fatal(err)
	}
	type places interface {
		FindKey(ctx context.Context, key string) (staging.FoundKey, error)
		FindBatches(ctx context.Context, ids ...string) (staging.FoundBatches, error)
		FindSealed(ctx context.Context, from, to time.Time, limit int) (staging.SealedBatches, error)
	}
	first := load(item{ID: "a", N: 1, At: noon}, item{ID: "b", N: -1, At: noon})
	first.Batch.Records, first.Batch.Worker = 3, "w7"
	first.Rejects = []staging.Reject{{Pos: 2, Key: strings.Repeat("long", 2000), Code: "long", Payload: []byte("x")}}
	stage(t, tab, first, staging.OutcomeStaged)
	for _, f := range []places{tab, finder} {
		b, err := f.FindBatches(t.Context(), first.Batch.ID, uid.New())
		if err != nil || len(b.Batches) != 1 || b.Batches[0].Fate != staging.FateStaged || b.Batches[0].Worker != "w7" || b.Batches[0].Staged.IsZero() {
			t.Errorf("a staged batch: got %+v, %v", b, err)
		}
		if k, err := f.FindKey(t.Context(), "a"); err != nil || len(k.Rows)+len(k.Rejects)+len(k.Limits) != 0 {
			t.Errorf("a staged row is in no index: got %+v, %v", k, err)
		}
	}
	promote(t, tab)
	staged := load(item{ID: "later", At: noon})
	stage(t, tab, staged, staging.OutcomeStaged)
	root := uid.New()
	voidBatch(t, tab, staging.Batch{ID: root, Records: 2})
	for i := range 2 { // its parts, of which one was promoted
		part := staging.Batch{ID: uid.New(), Root: root, Offset: i, Records: 1}
		if i == 0 {
			voidBatch(t, tab, part)
			continue
		}
		l := load(item{ID: "part", At: noon})
		l.Batch = part
		stage(t, tab, l, staging.OutcomeStaged)
	}
	promote(t, tab)
	again := load(item{ID: "again", At: noon})
	stage(t, tab, again, staging.OutcomeStaged)
	for _, f := range []places{tab, finder} {
		k, err := f.FindKey(t.Context(), "a")
		if err != nil || len(k.Rows) != 1 || k.Rows[0].Key != "a" || !strings.Contains(k.Rows[0].JSON, `"n":1`) || len(k.Rejects) != 0 || k.Limits != nil {
			t.Errorf("a promoted row: got %+v, %v", k, err)
		}
		for key, code := range map[string]string{"b": "negative", first.Rejects[0].Key: "long"} {
			k, err := f.FindKey(t.Context(), key)
			if err != nil || len(k.Rows) != 0 || len(k.Rejects) != 1 || k.Rejects[0].Code != code || k.Rejects[0].Batch != first.Batch.ID || !k.Rejects[0].Resolved.IsZero() {
				t.Errorf("a reject: got %+v, %v, want the code %s", k, err, code)
			}
		}
		b, err := f.FindBatches(t.Context(), root, first.Batch.ID, again.Batch.ID)
		got := map[string]int{}
		for _, x := range b.Batches {
			got[x.Fate.String()]++
			if x.Root == root && x.ID != root && (!x.Holds(root, x.Offset) || x.Holds(root, 1-x.Offset) || x.Holds(x.ID, x.Offset)) {
				t.Errorf("the part %+v holds the wrong place", x)
			}
		}
		if err != nil || got["void"] != 2 || got["promoted"] != 2 || got["staged"] != 1 || len(b.Batches) != 5 {
			t.Errorf("batches: got %v, %v, want 2 void, 2 promoted, 1 staged", got, err)
		}
		sealed, err := f.FindSealed(t.Context(), time.Now().Add(-time.Hour), time.Now().Add(time.Hour), 3)
		if err != nil || len(sealed.IDs) != 3 || !sealed.More || !slices.IsSortedFunc(sealed.IDs, func(a, b string) int { return strings.Compare(b, a) }) {
			t.Errorf("sealed: got %+v, %v, want the three youngest and more", sealed, err)
		}
		if sealed, err = f.FindSealed(t.Context(), time.Now().Add(-time.Hour), time.Now().Add(-time.Minute), 3); err != nil || len(sealed.IDs) != 0 {
			t.Errorf("sealed a while ago: got %+v, %v, want none", sealed, err)
		}
	}
	rejects, err := tab.Rejects(t.Context(), staging.RejectFilter{Key: "b"})
	if err != nil || len(rejects) != 1 {
		t.Fatal(rejects, err)
	}
	if _, err := tab.Resolve(t.Context(), rejects[0].ID); err != nil {
		t.Fatal(err)
	}
	if k, err := finder.FindKey(t.Context(), "b"); err != nil || len(k.Rejects) != 1 || k.Rejects[0].Resolved.IsZero() {
		t.Errorf("a resolved reject: got %+v, %v", k, err)
	}
}

func voidBatch(t *testing.T, tab *staging.Table[item], b staging.Batch) {
	t.Helper()
	if f, err := tab.Void(t.Context(), b); f != staging.FateVoid || err != nil {
		t.Fatal(f, err)
	}
}

// No statement scans a table, however large it is.
func TestFindUsesIndexes(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	id := uid.New()
	exec(t, pool, `INSERT INTO items (id, n, at) SELECT 'k' || i, i, now() FROM generate_series(1, 20000) i;
		INSERT INTO items_ledger (id, kind, root, root_offset, records, sealed_at)
			SELECT u, 'promoted', CASE WHEN i % 100 = 0 THEN gen_random_uuid() ELSE u END, 0, 1, now() FROM (SELECT i, gen_random_uuid() u FROM generate_series(1, 20000) i) x;
		INSERT INTO items_rejects (batch, root, place, pos, whole, source, key, code, reason)
			SELECT gen_random_uuid(), gen_random_uuid(), 0, 0, true, 'stage', CASE WHEN i % 2 = 0 THEN 'k' || i ELSE '' END, 'c', '' FROM generate_series(1, 20000) i;
		INSERT INTO items_registry_a (id, root, root_offset, records, kept, duplicates, filtered, rejected, rows, attempt, worker, sealed_at)
			SELECT gen_random_uuid(), gen_random_uuid(), 0, 1, 1, 0, 0, 0, 1, 1, '', now() FROM generate_series(1, 20000);
		ANALYZE items, items_ledger, items_rejects, items_registry_a`)
	plans, err := tab.FindPlans(t.Context(), "k500", "text", []string{id})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range plans {
		if !strings.Contains(p, "Index") || strings.Contains(p, "Seq Scan on items") {
			t.Errorf("a plan without an index:\n%s", p)
		}
	}
	k, err := tab.FindKey(t.Context(), "k500")
	if err != nil || len(k.Rows) != 1 || len(k.Rejects) != 1 {
		t.Errorf("got %+v, %v", k, err)
	}
	// What has no index is named, not scanned.
	exec(t, pool, `DROP INDEX items_rejects_key; ALTER TABLE items DROP CONSTRAINT items_pkey`)
	if k, err = tab.FindKey(t.Context(), "k500"); err != nil || len(k.Rows)+len(k.Rejects) != 0 || len(k.Limits) != 2 ||
		!strings.Contains(k.Limits[0], `no index leads with the id column "id"`) || !strings.Contains(k.Limits[1], "CREATE INDEX") {
		t.Errorf("without indexes: got %+v, %v", k, err)
	}
}

// Keys of other types, and what is no value of them.
func TestFindKeyOfAnyType(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	for i, c := range []struct{ sqlType, value, key, none, rejected string }{
		{"bigint", "7", "007", "x", "7"},
		{"uuid", "0197d8a2-0000-7000-8000-000000000001", "0197D8A200007000 8000000000000001", "1", "0197d8a2-0000-7000-8000-000000000001"},
		{"varchar(3)", "abc", "abc", "abcd", "abc"},
		{"char(3)", "ab", "ab", "abcd", "ab "},
		{"char(4)", "ab", "ab  ", "abcde", "ab"},
		{"char(5)", "ab", "ab ", "abcdef", "ab   "},
		{"numeric(10,2)", "1.5", "1.50", "1.501", "1.50"},
		{"timestamptz", "2026-01-02T03:04:05Z", "2026-01-02 03:04:05+00", "noon", "2026-01-02 03:04:05+00"},
	} {
		target := fmt.Sprintf("t%d", i)
		exec(t, pool, fmt.Sprintf("CREATE TABLE %s (id %s PRIMARY KEY); INSERT INTO %s VALUES ('%s')", target, c.sqlType, target, c.value))
		tab := newTable(t, pool, target, staging.Config[keyOnly]{Key: []string{"id"}, Columns: []staging.Column{{Name: "id"}}, Fill: func(*keyOnly, *staging.Row) {}})
		if c.sqlType == "uuid" {
			c.key = strings.ReplaceAll(c.key, " ", "")
		}
		exec(t, pool, fmt.Sprintf("INSERT INTO %s_rejects (batch, pos, key, code, reason, source, root, place, whole) SELECT gen_random_uuid(), 0, $1, 'x', '', 'insert', gen_random_uuid(), 0, true", target), c.rejected)
		if k, err := tab.FindKey(t.Context(), c.key); err != nil || len(k.Rows) != 1 || len(k.Rejects) != 1 {
			t.Errorf("%s: got %+v, %v, want one row and one reject", c.sqlType, k, err)
		}
		if k, err := tab.FindKey(t.Context(), c.none); err != nil || len(k.Rows)+len(k.Rejects) != 0 || k.Limits != nil {
			t.Errorf("%s: got %+v, %v, want none", c.sqlType, k, err)
		}
	}
	if _, err := staging.NewFinder(t.Context(), pool, "none", ""); !errors.Is(err, staging.ErrNoTarget) {
		t.Errorf("got %v, want ErrNoTarget", err)
	}
}

type keyOnly struct{}

// A promotion that holds its side is not waited for.
func TestFindDuringAPromotion(t *testing.T) {
	pool, one, two := programs(t)
	l := load(items("x", 3)...)
	stage(t, one, l, staging.OutcomeStaged)
	reached, goOn := stopAt(t, one, "before commit")
	done := promoting(t, one)
	<-reached
	b, err := two.FindBatches(t.Context(), l.Batch.ID)
	goOn()
	if err != nil || len(b.Batches) != 0 || len(b.Limits) != 1 || !strings.Contains(b.Limits[0], "a promotion holds it") {
		t.Errorf("got %+v, %v, want a limit", b, err)
	}
	(<-done).must(t)
	count(t, pool, 3)
}
