package staging_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// age makes all batches of the ledger two days old.
const age = "UPDATE items_ledger SET committed_at = committed_at - interval '2 days' WHERE committed_at > now() - interval '1 day'"

// What Prune deletes stays in the sums, while programs prune, promote and read at the same time.
func TestBooksKeepThePruned(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	const programs, batches = 3, 12
	var wg, readers sync.WaitGroup
	done := make(chan struct{})
	var want staging.Books
	for w := range programs {
		want.Batches += batches
		for i := range batches {
			want.Records += int64(i + 3)
			want.Kept += int64(i + 1)
		}
		want.Duplicates, want.Filtered = want.Duplicates+batches, want.Filtered+batches
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range batches {
				l := load(items(fmt.Sprintf("%d-%d", w, i), i+1)...)
				l.Batch.Records, l.Duplicates, l.Filtered = i+3, 1, 1
				if _, err := tab.Stage(t.Context(), l); err != nil {
					t.Error(err)
				}
				if _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err != nil && !errors.Is(err, staging.ErrBusy) {
					t.Error(err)
				}
				if _, err := pool.Exec(t.Context(), age); err != nil {
					t.Error(err)
				}
				if r.IntN(2) == 0 {
					if _, err := tab.Prune(t.Context(), time.Now().Add(-time.Minute)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	readers.Go(func() {
		for last := int64(0); ; {
			b, err := tab.Books(t.Context())
			if err != nil || b.Balanced() != nil || b.Pruned || b.Records < last {
				t.Errorf("books %+v after %d records, %v", b, last, err)
			}
			last = b.Records
			select {
			case <-done:
				return
			default:
			}
		}
	})
	wg.Wait()
	for p := promote(t, tab); len(p.Batches) > 0; p = promote(t, tab) {
	}
	exec(t, pool, age)
	if _, err := tab.Prune(t.Context(), time.Now().Add(-time.Minute)); err != nil {
		t.Error(err)
	}
	close(done)
	readers.Wait()
	want.Staged, want.Rows = want.Kept, want.Kept
	if got, err := tab.Books(t.Context()); got != want || err != nil {
		t.Errorf("all batches pruned: books %+v, %v, want %+v", got, err, want)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM items_ledger"); n != 0 {
		t.Errorf("%d rows are left in the ledger, want none", n)
	}
}

// Sums of a span have what was pruned if it is known to be in the span, or name what they lack.
func TestBooksOfASpanAfterAPrune(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	for i, hours := range []int{72, 48, 5, 0} { // ago
		stage(t, tab, load(items(fmt.Sprint(i), 1<<i)...), staging.OutcomeStaged)
		promote(t, tab)
		exec(t, pool, fmt.Sprintf("UPDATE items_ledger SET committed_at = now() - interval '%d hours' WHERE records = %d", hours, 1<<i))
	}
	if n, err := tab.Prune(t.Context(), time.Now().Add(-24*time.Hour)); n != 2 || err != nil {
		t.Fatalf("Prune: got %d, %v, want 2", n, err)
	}
	ledger, err := staging.OpenLedger(t.Context(), pool, "items")
	if err != nil {
		t.Fatal(err)
	}
	ago := func(hours int) time.Time { return time.Now().Add(-time.Duration(hours) * time.Hour) }
	future := time.Now().Add(time.Hour)
	check := func(name string, since, before time.Time, records int64, pruned bool) {
		t.Helper()
		b, err := ledger.BooksBetween(t.Context(), since, before)
		if err != nil || b.Records != records || b.Rows != records || b.Pruned != pruned {
			t.Errorf("%s: %d records, %d rows, pruned %v, %v, want %d records, pruned %v", name, b.Records, b.Rows, b.Pruned, err, records, pruned)
		}
	}
	check("all", time.Time{}, future, 1+2+4+8, false)
	check("all of the past up to a time after the floor", time.Time{}, ago(1), 1+2+4, false)
	check("all of the past up to a time among the pruned", time.Time{}, ago(60), 0, true)
	check("from a time among the pruned on", ago(60), future, 4+8, true)
	check("from the floor on", ago(24), future, 4+8, false)
	check("the last hour", ago(1), future, 8, false)
	exec(t, pool, "UPDATE items_control SET pruned = NULL") // as an older layout leaves it
	check("all, with unknown sums", time.Time{}, future, 4+8, true)
	check("the last hour, with unknown sums", ago(1), future, 8, false)
	exec(t, pool, age)
	if n, err := tab.Prune(t.Context(), time.Now().Add(-time.Minute)); n != 2 || err != nil {
		t.Errorf("Prune without known sums: got %d, %v, want 2", n, err)
	}
	check("unknown sums stay unknown", time.Time{}, future, 0, true)
}
