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
	"github.com/jackc/pgx/v5/pgxpool"
)

// ledgerOnly makes a table without a key: nothing but the ledger keeps a row from coming twice.
func ledgerOnly(t testing.TB, pool *pgxpool.Pool, cfg staging.Config[item]) *staging.Table[item] {
	t.Helper()
	cfg.Create = true
	return newTable(t, pool, "items", cfg)
}

// stopAt makes tab stop at a point; reached is closed there, and it goes on when the test calls on.
func stopAt[T any](t testing.TB, tab *staging.Table[T], point string) (reached <-chan struct{}, goOn func()) {
	r, c := make(chan struct{}), make(chan struct{})
	done := false
	tab.SetHook(func(p string) error {
		if p == point && !done {
			done = true
			close(r)
			<-c
		}
		return nil
	})
	return r, func() { close(c) }
}

// result is what a call in the background came to.
type result[V any] struct {
	v   V
	err error
}

func background[V any](f func() (V, error)) <-chan result[V] {
	c := make(chan result[V], 1)
	go func() {
		v, err := f()
		c <- result[V]{v, err}
	}()
	return c
}

func (r result[V]) must(t testing.TB) V {
	t.Helper()
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.v
}

// untilWaiting returns when a backend of this database waits for a lock. It polls: Postgres tells nobody.
func untilWaiting(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if query[bool](t, pool, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody waits for a lock")
		}
		<-time.After(2 * time.Millisecond)
	}
}

func count(t testing.TB, pool *pgxpool.Pool, want int) {
	t.Helper()
	if n := query[int](t, pool, "SELECT count(*) FROM items"); n != want {
		t.Errorf("%d rows, want %d", n, want)
	}
	if n := query[int](t, pool, "SELECT count(*) - count(DISTINCT id) FROM items"); n != 0 {
		t.Errorf("%d rows are doubled", n)
	}
}

// A worker that looked at the hint before a flip copies into the sealed side after it was emptied.
func TestALateCopyIsFoundNextTime(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	late, tab := ledgerOnly(t, pool, staging.Config[item]{}), ledgerOnly(t, pool, staging.Config[item]{})
	stage(t, tab, load(items("a", 5)...), staging.Staged)
	promote(t, tab) // side a is sealed now, and empty; late still believes that it is open
	stage(t, late, load(items("b", 5)...), staging.Staged)
	_, registry := tab.Staging()
	if n := query[int](t, pool, "SELECT count(*) FROM "+registry[0]); n != 1 {
		t.Fatalf("the late batch is not in the sealed side: %d", n)
	}
	stage(t, tab, load(items("c", 5)...), staging.Staged)
	for range 2 {
		if p := promote(t, tab); p.Rows != 5 {
			t.Errorf("promotion: %+v", p)
		}
	}
	count(t, pool, 15)
}

// The mutations "one table" and "no lock on the sealed table" fail here: the TRUNCATE waits for the worker and then wipes
// what nobody has read.
func TestACopyUnderWayIsNotWiped(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	worker, tab := ledgerOnly(t, pool, staging.Config[item]{}), ledgerOnly(t, pool, staging.Config[item]{})
	stage(t, tab, load(items("a", 5)...), staging.Staged)
	reached, goOn := stopAt(t, worker, "after copy")
	l := load(items("b", 5)...)
	out := background(func() (staging.Outcome, error) { return worker.Stage(t.Context(), l) })
	<-reached
	p := background(func() (staging.Promotion, error) { return tab.Promote(t.Context(), staging.PromoteOptions{}) })
	untilWaiting(t, pool)
	goOn()
	if got := (<-out).must(t); got != staging.Staged {
		t.Errorf("outcome: %v", got)
	}
	(<-p).must(t)
	if f := fates(t, tab, l.Batch.ID); f[0] == staging.FateUnknown {
		t.Error("the batch that was copied during the promotion is gone")
	}
	promote(t, tab)
	count(t, pool, 10)
}

// While a promoter is at work, workers go on in the other side without waiting for it, also those with an old hint.
func TestAPromotionHoldsUpNoWorker(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	promoter, worker := ledgerOnly(t, pool, staging.Config[item]{}), ledgerOnly(t, pool, staging.Config[item]{LockTimeout: 300 * time.Millisecond})
	stage(t, worker, load(items("a", 5)...), staging.Staged)
	reached, goOn := stopAt(t, promoter, "after insert")
	p := background(func() (staging.Promotion, error) { return promoter.Promote(t.Context(), staging.PromoteOptions{}) })
	<-reached
	for _, prefix := range []string{"b", "c"} { // the first with the old hint
		stage(t, worker, load(items(prefix, 5)...), staging.Staged)
	}
	goOn()
	(<-p).must(t)
	promote(t, worker)
	count(t, pool, 15)
}

// The mutation "no unique registry" fails here.
func TestTwoWorkersOnOneBatch(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	one, two := ledgerOnly(t, pool, staging.Config[item]{}), ledgerOnly(t, pool, staging.Config[item]{})
	l := load(items("a", 50)...)
	reached, goOn := stopAt(t, one, "after copy")
	a := background(func() (staging.Outcome, error) { return one.Stage(t.Context(), l) })
	<-reached
	b := background(func() (staging.Outcome, error) { return two.Stage(t.Context(), l) })
	untilWaiting(t, pool)
	goOn()
	got := []staging.Outcome{(<-a).must(t), (<-b).must(t)}
	if want := []staging.Outcome{staging.Staged, staging.AlreadyStaged}; !slices.Equal(got, want) {
		t.Errorf("outcomes %v, want %v", got, want)
	}
	if p := promote(t, one); p.Rows != 50 || len(p.Mismatched) != 0 {
		t.Errorf("promotion: %+v", p)
	}
	count(t, pool, 50)
}

// A batch whose row is locked is not waited for longer than the time-out.
func TestALockedBatchIsBusy(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	one, two := ledgerOnly(t, pool, staging.Config[item]{}), ledgerOnly(t, pool, staging.Config[item]{LockTimeout: 50 * time.Millisecond})
	l := load(items("a", 50)...)
	reached, goOn := stopAt(t, one, "after copy")
	a := background(func() (staging.Outcome, error) { return one.Stage(t.Context(), l) })
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
	t.Parallel()
	pool := servertest.Postgres(t)
	promoter, worker := ledgerOnly(t, pool, staging.Config[item]{}), ledgerOnly(t, pool, staging.Config[item]{})
	l := load(items("a", 5)...)
	stage(t, worker, l, staging.Staged)
	reached, goOn := stopAt(t, promoter, "after lock")
	p := background(func() (staging.Promotion, error) { return promoter.Promote(t.Context(), staging.PromoteOptions{}) })
	<-reached
	stage(t, worker, l, staging.Staged) // the other side knows nothing of it, and the ledger not yet
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

func TestVoidWaitsForAPromotion(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	promoter, tab := ledgerOnly(t, pool, staging.Config[item]{}), ledgerOnly(t, pool, staging.Config[item]{})
	l := load(items("a", 5)...)
	stage(t, tab, l, staging.Staged)
	reached, goOn := stopAt(t, promoter, "after insert")
	p := background(func() (staging.Promotion, error) { return promoter.Promote(t.Context(), staging.PromoteOptions{}) })
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
	t.Parallel()
	pool := servertest.Postgres(t)
	voider, tab := ledgerOnly(t, pool, staging.Config[item]{}), ledgerOnly(t, pool, staging.Config[item]{})
	l := load(items("a", 5)...)
	stage(t, tab, l, staging.Staged)
	stage(t, tab, load(items("b", 5)...), staging.Staged)
	reached, goOn := stopAt(t, voider, "void inserted")
	v := background(func() (staging.Fate, error) { return voider.Void(t.Context(), l.Batch) })
	<-reached
	p := background(func() (staging.Promotion, error) { return tab.Promote(t.Context(), staging.PromoteOptions{}) })
	untilWaiting(t, pool)
	goOn()
	if f := (<-v).must(t); f != staging.FateVoid {
		t.Errorf("void: %v", f)
	}
	if got := (<-p).must(t); got.Rows != 5 || !slices.Contains(got.Batches, staging.Promoted{ID: l.Batch.ID, Fate: staging.FateVoid}) {
		t.Errorf("promotion: %+v", got)
	}
	count(t, pool, 5)
	balanced(t, tab)
}

// The mutation "ledger first, then registries" fails here: the batch would be found in neither.
func TestFatesDuringAPromotion(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	asker, tab := ledgerOnly(t, pool, staging.Config[item]{}), ledgerOnly(t, pool, staging.Config[item]{})
	l := load(items("a", 5)...)
	stage(t, tab, l, staging.Staged)
	other := load(items("b", 5)...)
	asker.SetHook(func(point string) error {
		if point == "between registries and ledger" {
			// The asker's transaction still holds its share of the registries, which the promoter's lock waits for; it
			// would not with autocommit. So the batch is moved by hand as a promotion would.
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

// Fact: a promoter that sees fewer rows than were announced must not acknowledge them.
func TestABatchWithMissingRowsIsPutAside(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := ledgerOnly(t, pool, staging.Config[item]{})
	bad, good := load(items("a", 5)...), load(items("b", 5)...)
	stage(t, tab, bad, staging.Staged)
	stage(t, tab, good, staging.Staged)
	st, _ := tab.Staging()
	exec(t, pool, "DELETE FROM "+st[0]+" WHERE id = 'a-0003'")
	p := promote(t, tab)
	if !slices.Equal(p.Mismatched, []string{bad.Batch.ID}) || len(p.Batches) != 1 || p.Rows != 5 {
		t.Errorf("promotion: %+v", p)
	}
	if f := fates(t, tab, bad.Batch.ID, good.Batch.ID); f[0] != staging.FateUnknown || f[1] != staging.FatePromoted {
		t.Errorf("fates: %v", f)
	}
	stage(t, tab, bad, staging.Staged)
	promote(t, tab)
	count(t, pool, 10)
}

// The mutations "void not flushed" and "promotion not flushed" fail here: the server's default is an asynchronous commit,
// and its WAL writer sleeps.
func TestCommitsOutliveACrash(t *testing.T) {
	t.Parallel()
	s := servertest.OwnPostgres(t, "synchronous_commit=off", "wal_writer_delay=10s")
	pool := s.Pool(t)
	tab := ledgerOnly(t, pool, staging.Config[item]{})
	exec(t, pool, "CHECKPOINT")
	first, err := tab.Epoch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	void, kept, lost := load(items("v", 5)...), load(items("k", 5)...), load(items("l", 5)...)
	stage(t, tab, kept, staging.Staged)
	stage(t, tab, load(items("x", 5)...), staging.Staged)
	// Bounded, for a promotion that truncates is flushed anyway: Postgres waits before it removes files.
	if p, err := tab.Promote(t.Context(), staging.PromoteOptions{MaxRows: 5}); err != nil || !p.More || p.Rows != 5 {
		t.Fatal(p, err)
	}
	crash := func() {
		t.Helper()
		if err := errors.Join(s.Kill(), restart(s)); err != nil {
			t.Fatal(err)
		}
		pool.Reset()
	}
	crash()
	if f := fates(t, tab, kept.Batch.ID); f[0] != staging.FatePromoted {
		t.Errorf("the promotion did not outlive the crash: %v", f)
	}
	count(t, pool, 5)
	stage(t, tab, lost, staging.Staged)
	if f, err := tab.Void(t.Context(), void.Batch); err != nil || f != staging.FateVoid {
		t.Fatal(f, err)
	}
	crash()
	if f := fates(t, tab, void.Batch.ID, lost.Batch.ID); f[0] != staging.FateVoid || f[1] != staging.FateUnknown {
		t.Errorf("fates after the crash: %v", f)
	}
	second, err := tab.Epoch(t.Context())
	if err != nil || second == first {
		t.Errorf("the epoch is %q and was %q: %v", second, first, err)
	}
	p := promote(t, tab)
	if len(p.Batches) != 0 || p.Epoch != second {
		t.Errorf("promotion: %+v", p)
	}
	stage(t, tab, lost, staging.Staged)
	stage(t, tab, void, staging.AlreadyVoid)
	promote(t, tab)
	count(t, pool, 10)
}

// A worker that stands still in the middle of its COPY: Postgres has no time-out for it.
func TestAFrozenWorkerStopsNobody(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	short := staging.Config[item]{LockTimeout: 200 * time.Millisecond, IdleTimeout: 300 * time.Millisecond, StageTimeout: 300 * time.Millisecond}
	for _, point := range []string{"before copy", "mid copy", "after copy"} {
		worker, tab := ledgerOnly(t, pool, short), ledgerOnly(t, pool, short)
		good, l := load(items(point+"g", 5)...), load(items(point, 5000)...)
		stage(t, tab, good, staging.Staged)
		reached, goOn := stopAt(t, worker, point)
		out := background(func() (staging.Outcome, error) { return worker.Stage(t.Context(), l) })
		<-reached
		begun := time.Now()
		for {
			p, err := tab.Promote(t.Context(), staging.PromoteOptions{})
			if err == nil && p.Rows == 5 {
				break
			}
			if err != nil && !errors.Is(err, staging.ErrBusy) || time.Since(begun) > 10*time.Second {
				t.Fatalf("%s: %+v, %v after %v", point, p, err, time.Since(begun))
			}
		}
		t.Logf("%s: promoted after %v", point, time.Since(begun))
		goOn()
		if r := <-out; r.err == nil {
			t.Errorf("%s: the frozen worker was told %v", point, r.v)
		}
		worker.SetHook(nil)
		if out, err := worker.Stage(t.Context(), l); err != nil || out != staging.Staged {
			t.Errorf("%s: once more: %v, %v", point, out, err)
		}
		promote(t, tab)
	}
	count(t, pool, 15015)
	balanced(t, ledgerOnly(t, pool, short))
}

func TestAFrozenPromoterStopsNobody(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	short := staging.Config[item]{LockTimeout: 200 * time.Millisecond, IdleTimeout: 300 * time.Millisecond}
	for _, point := range []string{"after flip", "after lock", "after ledger", "after insert", "before commit"} {
		frozen, tab := ledgerOnly(t, pool, short), ledgerOnly(t, pool, short)
		stage(t, tab, load(items(point, 5)...), staging.Staged)
		reached, goOn := stopAt(t, frozen, point)
		out := background(func() (staging.Promotion, error) { return frozen.Promote(t.Context(), staging.PromoteOptions{}) })
		<-reached
		begun := time.Now()
		stage(t, tab, load(items(point+"2", 5)...), staging.Staged)
		rows := 0
		for rows < 10 {
			p, err := tab.Promote(t.Context(), staging.PromoteOptions{})
			if err != nil && !errors.Is(err, staging.ErrBusy) || time.Since(begun) > 10*time.Second {
				t.Fatalf("%s: %+v, %v after %v", point, p, err, time.Since(begun))
			}
			rows += p.Rows
		}
		t.Logf("%s: promoted after %v", point, time.Since(begun))
		goOn()
		<-out
	}
	count(t, pool, 50)
}

// A commit whose answer is lost is settled by asking again.
func TestAnUnknownCommit(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := ledgerOnly(t, pool, staging.Config[item]{})
	l := load(items("a", 5)...)
	lose := func() {
		done := false
		tab.SetHook(func(p string) error {
			if p == "after commit" && !done {
				done = true
				return staging.ErrUnknown
			}
			return nil
		})
	}
	lose()
	stage(t, tab, l, staging.AlreadyStaged)
	lose()
	if p := promote(t, tab); p.Rows != 5 || len(p.Batches) != 1 {
		t.Errorf("promotion: %+v", p)
	}
	count(t, pool, 5)
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
		if _, err := tx.Exec(t.Context(), "INSERT INTO mine VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		for _, want := range []staging.Outcome{staging.Staged, staging.AlreadyStaged} {
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
		stage(t, tab, load(items(p, 10)...), staging.Staged)
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
		rows, ruled, more = rows+p.Rows, ruled+p.Ruled, p.More
		if calls == 0 { // in between: the open side
			stage(t, tab, load(items("f", 10)...), staging.Staged)
		}
	}
	if rows != 45 || ruled != 5 || calls != 3 {
		t.Errorf("%d rows, %d ruled in %d calls", rows, ruled, calls)
	}
	promote(t, tab)
	count(t, pool, 54)
	balanced(t, tab)
}
