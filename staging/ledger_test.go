package staging_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

func TestVoidWaitsForAPromotion(t *testing.T) {
	pool, promoter, tab := programs(t)
	l := load(items("a", 5)...)
	stage(t, tab, l, staging.OutcomeStaged)
	reached, goOn := stopAt(t, promoter, "after insert")
	p := promoting(t, promoter)
	<-reached
	v := background(func() (staging.Fate, error) { return tab.Void(t.Context(), l.Batch) })
	untilWaiting(t, pool)
	goOn()
	(<-p).must(t)
	if f := (<-v).must(t); f != staging.FatePromoted {
		t.Errorf("void of a promoted batch: %v", f)
	}
	count(t, pool, 5)
}

func TestAPromotionWaitsForVoid(t *testing.T) {
	pool, voider, tab := programs(t)
	l := load(items("a", 5)...)
	stage(t, tab, l, staging.OutcomeStaged)
	stage(t, tab, load(items("b", 5)...), staging.OutcomeStaged)
	reached, goOn := stopAt(t, voider, "void inserted")
	v := background(func() (staging.Fate, error) { return voider.Void(t.Context(), l.Batch) })
	<-reached
	p := promoting(t, tab)
	untilWaiting(t, pool)
	goOn()
	if f := (<-v).must(t); f != staging.FateVoid {
		t.Errorf("void: %v", f)
	}
	if got := (<-p).must(t); got.Rows != 5 || !slices.Contains(got.Batches, staging.PromotedBatch{ID: l.Batch.ID, Fate: staging.FateVoid}) {
		t.Errorf("promotion: %+v", got)
	}
	count(t, pool, 5)
	balanced(t, tab)
}

// The mutation "ledger first, then registries" fails here: the batch would be found in neither.
func TestFatesDuringAPromotion(t *testing.T) {
	pool, asker, tab := programs(t)
	l := load(items("a", 5)...)
	stage(t, tab, l, staging.OutcomeStaged)
	other := load(items("b", 5)...)
	asker.SetHook(func(point string) error {
		if point == "between registries and ledger" {
			// The asker's transaction still holds its share of the registries, which the promoter's lock
			// waits for; it would not with autocommit. So the batch is moved by hand as a promotion would.
			_, err := pool.Exec(context.Background(), `INSERT INTO items_ledger (id, kind, root, root_offset, records, sealed_at) VALUES ($1::text::uuid, 'promoted', $1::text::uuid, 0, 5, now())`, l.Batch.ID)
			return err
		}
		return nil
	})
	f := fates(t, asker, l.Batch.ID, other.Batch.ID, strings.ToUpper(l.Batch.ID))
	if want := []staging.Fate{staging.FatePromoted, staging.FateUnknown, staging.FatePromoted}; !slices.Equal(f, want) {
		t.Errorf("fates %v, want %v", f, want)
	}
}

// A prune before the future would set aside every batch in flight. It is refused, and the floor
// stays.
func TestPruneBeforeTheFutureIsRefused(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := newTable(t, pool, "future", staging.Config[item]{Create: true})
	if _, err := tab.Prune(t.Context(), time.Now().Add(time.Hour)); !errors.Is(err, staging.ErrConfig) {
		t.Errorf("Prune before the future: %v, want ErrConfig", err)
	}
	stage(t, tab, load(items("a", 5)...), staging.OutcomeStaged) // with a floor in the future: ErrTooOld
	if b, err := tab.Books(t.Context()); err != nil || b.Pruned {
		t.Errorf("pruned %v, %v, want a whole ledger", b.Pruned, err)
	}
	if _, err := tab.Prune(t.Context(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if b, err := tab.Books(t.Context()); err != nil || b.Pruned {
		t.Errorf("pruned %v, %v, want a whole ledger: no row was deleted", b.Pruned, err)
	}
}
