package staging_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// Fact: a promoter that sees fewer rows than were announced must not acknowledge them.
func TestABatchWithMissingRowsIsSetAside(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := ledgerOnly(t, pool, staging.Config[item]{})
	bad, good := load(items("a", 5)...), load(items("b", 5)...)
	stage(t, tab, bad, staging.OutcomeStaged)
	stage(t, tab, good, staging.OutcomeStaged)
	st, _ := tab.Staging()
	exec(t, pool, "DELETE FROM "+st[0]+" WHERE id = 'a-0003'")
	p := promote(t, tab)
	if !slices.Equal(p.Mismatched, []string{bad.Batch.ID}) || len(p.Batches) != 1 || p.Rows != 5 {
		t.Errorf("promotion: %+v", p)
	}
	if f := fates(t, tab, bad.Batch.ID, good.Batch.ID); f[0] != staging.FateUnknown || f[1] != staging.FatePromoted {
		t.Errorf("fates: %v", f)
	}
	stage(t, tab, bad, staging.OutcomeStaged)
	promote(t, tab)
	count(t, pool, 10)
}

// The mutations "void not flushed" and "promotion not flushed" fail here: the server's default is
// an asynchronous commit, and its WAL writer sleeps.
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
	stage(t, tab, kept, staging.OutcomeStaged)
	stage(t, tab, load(items("x", 5)...), staging.OutcomeStaged)
	// Bounded, for a promotion that truncates is flushed anyway: Postgres waits before it removes
	// files.
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
	stage(t, tab, lost, staging.OutcomeStaged)
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
	stage(t, tab, lost, staging.OutcomeStaged)
	stage(t, tab, void, staging.OutcomeAlreadyVoid)
	promote(t, tab)
	count(t, pool, 10)
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
	stage(t, tab, l, staging.OutcomeAlreadyStaged)
	lose()
	if p := promote(t, tab); p.Rows != 5 || len(p.Batches) != 1 {
		t.Errorf("promotion: %+v", p)
	}
	count(t, pool, 5)
}
