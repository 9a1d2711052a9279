package staging_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// A worker that looked at the hint before a flip copies into the sealed side after it was emptied.
func TestALateCopyIsFoundNextTime(t *testing.T) {
	pool, late, tab := programs(t)
	stage(t, tab, load(items("a", 5)...), staging.OutcomeStaged)
	promote(t, tab) // side a is sealed now, and empty; late still believes that it is open
	stage(t, late, load(items("b", 5)...), staging.OutcomeStaged)
	_, registry := tab.Staging()
	if n := query[int](t, pool, "SELECT count(*) FROM "+registry[0]); n != 1 {
		t.Fatalf("the late batch is not in the sealed side: %d", n)
	}
	stage(t, tab, load(items("c", 5)...), staging.OutcomeStaged)
	for range 2 {
		if p := promote(t, tab); p.Rows != 5 {
			t.Errorf("promotion: %+v", p)
		}
	}
	count(t, pool, 15)
}

// The mutations "one table" and "no lock on the sealed table" fail here: the TRUNCATE waits for the
// worker and then wipes rows that were never read.
func TestACopyUnderWayIsNotWiped(t *testing.T) {
	pool, worker, tab := programs(t)
	stage(t, tab, load(items("a", 5)...), staging.OutcomeStaged)
	reached, goOn := stopAt(t, worker, "after copy")
	l := load(items("b", 5)...)
	out := stagingIn(t, worker, l)
	<-reached
	p := promoting(t, tab)
	untilWaiting(t, pool)
	goOn()
	if got := (<-out).must(t); got != staging.OutcomeStaged {
		t.Errorf("outcome: %v", got)
	}
	(<-p).must(t)
	if f := fates(t, tab, l.Batch.ID); f[0] == staging.FateUnknown {
		t.Error("the batch that was copied during the promotion is gone")
	}
	promote(t, tab)
	count(t, pool, 10)
}

// While a promoter is at work, workers go on in the other side without waiting for it, also those
// with an old hint.
func TestAPromotionHoldsUpNoWorker(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	promoter, worker := ledgerOnly(t, pool, staging.Config[item]{}), ledgerOnly(t, pool, staging.Config[item]{LockTimeout: 300 * time.Millisecond})
	stage(t, worker, load(items("a", 5)...), staging.OutcomeStaged)
	reached, goOn := stopAt(t, promoter, "after insert")
	p := promoting(t, promoter)
	<-reached
	for _, prefix := range []string{"b", "c"} { // the first with the old hint
		stage(t, worker, load(items(prefix, 5)...), staging.OutcomeStaged)
	}
	goOn()
	(<-p).must(t)
	promote(t, worker)
	count(t, pool, 15)
}

// The mutation "no unique registry" fails here.
func TestTwoWorkersOnOneBatch(t *testing.T) {
	pool, one, two := programs(t)
	l := load(items("a", 50)...)
	reached, goOn := stopAt(t, one, "after copy")
	a := stagingIn(t, one, l)
	<-reached
	b := stagingIn(t, two, l)
	untilWaiting(t, pool)
	goOn()
	got := []staging.Outcome{(<-a).must(t), (<-b).must(t)}
	if want := []staging.Outcome{staging.OutcomeStaged, staging.OutcomeAlreadyStaged}; !slices.Equal(got, want) {
		t.Errorf("outcomes %v, want %v", got, want)
	}
	if p := promote(t, one); p.Rows != 50 || len(p.Mismatched) != 0 {
		t.Errorf("promotion: %+v", p)
	}
	count(t, pool, 50)
}

// A batch whose row is locked is not waited for longer than the timeout.
func TestALockedBatchIsBusy(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	one, two := ledgerOnly(t, pool, staging.Config[item]{}), ledgerOnly(t, pool, staging.Config[item]{LockTimeout: 50 * time.Millisecond})
	l := load(items("a", 50)...)
	reached, goOn := stopAt(t, one, "after copy")
	a := stagingIn(t, one, l)
	<-reached
	if _, err := two.Stage(t.Context(), l); !errors.Is(err, staging.ErrBusy) {
		t.Errorf("error: %v", err)
	}
	if _, err := two.Promote(t.Context(), staging.PromoteOptions{}); err != nil {
		t.Errorf("nothing is committed, so there is nothing to promote: %v", err)
	}
	goOn()
	(<-a).must(t)
}

// The mutation "no ledger insert" fails here: the batch is in both sides.
func TestABatchInBothSidesIsPromotedOnce(t *testing.T) {
	pool, promoter, worker := programs(t)
	l := load(items("a", 5)...)
	stage(t, worker, l, staging.OutcomeStaged)
	reached, goOn := stopAt(t, promoter, "after lock")
	p := promoting(t, promoter)
	<-reached
	stage(t, worker, l, staging.OutcomeStaged) // the other side knows nothing of it, and the ledger not yet
	goOn()
	if got := (<-p).must(t); got.Rows != 5 {
		t.Errorf("promotion: %+v", got)
	}
	again := promote(t, worker)
	if len(again.Batches) != 1 || again.Batches[0].Fate != staging.FatePromoted || again.Rows != 0 || again.Records != 0 {
		t.Errorf("second promotion: %+v", again)
	}
	count(t, pool, 5)
	balanced(t, worker)
}

func TestStageInATransactionOfTheCallers(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := ledgerOnly(t, pool, staging.Config[item]{})
	exec(t, pool, "CREATE TABLE mine (n int)")
	rolled, kept := load(items("a", 5)...), load(items("b", 5)...)
	for _, l := range []staging.Load[item]{rolled, kept} {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // ended below
		if _, err := tx.Exec(t.Context(), "INSERT INTO mine VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		for _, want := range []staging.Outcome{staging.OutcomeStaged, staging.OutcomeAlreadyStaged} {
			if out, err := tab.StageTx(t.Context(), tx, l); err != nil || out != want {
				t.Fatal(out, err)
			}
		}
		if l.Batch.ID == kept.Batch.ID {
			err = tx.Commit(t.Context())
		} else {
			err = tx.Rollback(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if f := fates(t, tab, rolled.Batch.ID, kept.Batch.ID); f[0] != staging.FateUnknown || f[1] != staging.FateStaged {
		t.Errorf("fates: %v", f)
	}
	promote(t, tab)
	count(t, pool, 5)
	if n := query[int](t, pool, "SELECT count(*) FROM mine"); n != 1 {
		t.Errorf("the caller's own rows: %d", n)
	}
}

func TestABoundedPromotion(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := ledgerOnly(t, pool, staging.Config[item]{Rules: []staging.Rule{{Code: "four", Reason: "no fours", Where: "n = 4"}}})
	for _, p := range []string{"a", "b", "c", "d", "e"} {
		stage(t, tab, load(items(p, 10)...), staging.OutcomeStaged)
	}
	var rows, ruled, calls int
	for more := true; more; calls++ {
		p, err := tab.Promote(t.Context(), staging.PromoteOptions{MaxRows: 25})
		if err != nil {
			t.Fatal(err)
		}
		if p.Rows > 25 {
			t.Errorf("%d rows at once", p.Rows)
		}
		rows, ruled, more = rows+p.Rows, ruled+p.RejectedByRule, p.More
		if calls == 0 { // in between: the open side
			stage(t, tab, load(items("f", 10)...), staging.OutcomeStaged)
		}
	}
	if rows != 54 || ruled != 6 || calls != 4 {
		t.Errorf("%d rows, %d ruled in %d calls", rows, ruled, calls)
	}
	count(t, pool, 54)
	balanced(t, tab)
}
