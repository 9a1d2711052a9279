package staging_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// counted compares the counts by code with the rejects, one by one.
func counted[T any](t testing.TB, pool *pgxpool.Pool, tab *staging.Table[T]) []staging.CodeCount {
	t.Helper()
	got, err := tab.CodeCounts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var want []staging.CodeCount
	rejects := strings.TrimSuffix(tab.Name(), `"`) + `_rejects"`
	text := query[string](t, pool, `SELECT coalesce(json_agg(x ORDER BY "Code")::text, '[]') FROM (SELECT code COLLATE "C" AS "Code",
		count(*) FILTER (WHERE resolved_at IS NULL) AS "Open", count(resolved_at) AS "Resolved" FROM `+rejects+` GROUP BY 1) x`)
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" && len(want)+len(got) > 0 {
		t.Errorf("counts by code (-rejects +counts):\n%s", diff)
	}
	return got
}

func rejecting(t testing.TB, pool *pgxpool.Pool) *staging.Table[item] {
	t.Helper()
	return newTable(t, pool, "items", staging.Config[item]{Create: true, Key: []string{"id"},
		Rules: []staging.Rule{{Code: "seven", Where: "n % 10 = 7"}, {Code: "eight", Where: "n % 10 = 8"}}})
}

// The counts stay those of the rejects through concurrent calls of every kind that changes them.
func TestRejectCountsStayExact(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := rejecting(t, pool)
	exec(t, pool, "ALTER TABLE items ADD CHECK (n % 10 <> 9)")
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for i := range 15 {
				l := load(append(items(fmt.Sprint(w, "-", i), 12), item{ID: "\xff"})...)
				l.Rejects = []staging.Reject{{Pos: 13, Code: "Odd One!", Reason: "odd"}}
				l.Batch.Records++
				if _, err := tab.Stage(t.Context(), l); err != nil {
					t.Error(err)
				}
				if _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err != nil && !errors.Is(err, staging.ErrBusy) {
					t.Error(err)
				}
				list, err := tab.Rejects(t.Context(), staging.RejectFilter{Limit: 20})
				if err != nil || len(list) == 0 {
					continue
				}
				x := list[r.IntN(len(list))]
				switch r.IntN(3) {
				case 0:
					_, err = tab.Resolve(t.Context(), x.ID, list[0].ID, x.ID)
				case 1:
					_, err = tab.Replay(t.Context(), []staging.Correction[item]{{Reject: x.ID, Rows: items(fmt.Sprint("z", w, i), 1)}})
				case 2:
					_, err = tab.Prune(t.Context(), time.Now().Add(-time.Minute))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for p := promote(t, tab); len(p.Batches) > 0; p = promote(t, tab) {
	}
	got := counted(t, pool, tab)
	var codes []string
	for _, c := range got {
		codes = append(codes, c.Code)
	}
	if want := []string{"eight", staging.CodeUTF8, "odd_one", "seven", staging.CodeCheck}; !cmp.Equal(codes, want) {
		t.Errorf("codes %v, want %v", codes, want)
	}
	ledger, err := staging.OpenLedger(t.Context(), pool, "items")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := ledger.Resolve(t.Context(), 1, 2, 3); err != nil {
		t.Error(n, err)
	}
	exec(t, pool, "UPDATE items_rejects SET resolved_at = '2020-01-01' WHERE resolved_at IS NOT NULL")
	if _, err := tab.Prune(t.Context(), noon.AddDate(-1, 0, 0)); err != nil {
		t.Error(err)
	}
	counted(t, pool, tab)
	named, err := ledger.CodeCounts(t.Context())
	if again := counted(t, pool, tab); err != nil || !cmp.Equal(named, again) {
		t.Errorf("CodeCounts by the name of the target: %v, %v, want %v", named, err, again)
	}
	balanced(t, tab)
}

// To count rejects reads a few pages, however many rejects there are, and the counts do not grow
// with the promotions.
func TestRejectCountsReadFewPages(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := rejecting(t, pool)
	for i := range 150 {
		stage(t, tab, load(items(fmt.Sprint(i), 20)...), staging.OutcomeStaged)
		promote(t, tab)
	}
	counted(t, pool, tab)
	exec(t, pool, `INSERT INTO items_rejects (batch, root, place, pos, whole, source, key, code, reason, payload)
		SELECT batch, root, place, pos, whole, source, key, code, reason, repeat('x', 1000) FROM items_rejects, generate_series(1, 10)`)
	if n := query[int](t, pool, "SELECT count(*) FROM items_reject_counts"); n > 150 {
		t.Errorf("%d rows of counts, want 150 at most", n)
	}
	var plan []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	text := query[string](t, pool, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+tab.CountsQuery())
	if err := json.Unmarshal([]byte(text), &plan); err != nil {
		t.Fatal(err)
	}
	if n, pages := plan[0].Plan.Hit+plan[0].Plan.Read, query[int](t, pool, "SELECT pg_relation_size('items_rejects') / 8192"); n > 20 || pages < 500 {
		t.Errorf("read %d pages where the rejects have %d, want 20 at most and 500 at least", n, pages)
	}
}

// A code is a word, however it was given.
func TestCodesAreWords(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	l := load(items("a", 1)...)
	want := map[string]string{}
	for in, out := range map[string]string{
		"fine_2": "fine_2", "Bad Value": "bad_value", "": staging.CodeUnnamed, "42": "code_42", "é!": staging.CodeUnnamed, "total_usd < 0.01": "total_usd_0_01",
		"two\nlines": "two_lines", strings.Repeat("x", 99): strings.Repeat("x", 64), staging.CodeCheck: staging.CodeCheck, "sqlstate_P0001": "sqlstate_P0001",
		"sqlstate_p1": "sqlstate_p1", "nul\x00": "nul", "\xff": staging.CodeUnnamed,
	} {
		key := fmt.Sprintf("%q", in)
		l.Rejects = append(l.Rejects, staging.Reject{Pos: int32(l.Batch.Records), Key: key, Code: in, Reason: "no", Payload: []byte("p")})
		l.Batch.Records++
		want[key] = out
	}
	stage(t, tab, l, staging.OutcomeStaged)
	promote(t, tab)
	if diff := cmp.Diff(want, codes(t, tab)); diff != "" {
		t.Errorf("codes (-want +got):\n%s", diff)
	}
	for _, code := range []string{"", "Low", "a b", "1st", "_a", "sqlstate_23505", strings.Repeat("x", 65), "ä"} {
		_, err := staging.New(t.Context(), pool, "items", staging.Config[item]{Key: []string{"id"}, Rules: []staging.Rule{{Code: code, Where: "true"}}})
		if !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), "Rules[0]") {
			t.Errorf("code %q: got %v, want ErrConfig that names Rules[0]", code, err)
		}
	}
}
