package staging_test

import (
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

// programs are two programs on one new target without a key.
func programs(t *testing.T) (pool *pgxpool.Pool, one, two *staging.Table[item]) {
	t.Helper()
	t.Parallel()
	pool = servertest.Postgres(t)
	return pool, ledgerOnly(t, pool, staging.Config[item]{}), ledgerOnly(t, pool, staging.Config[item]{})
}

// promoting promotes in the background.
func promoting(t testing.TB, tab *staging.Table[item]) <-chan result[staging.PromoteResult] {
	return background(func() (staging.PromoteResult, error) { return tab.Promote(t.Context(), staging.PromoteOptions{}) })
}

// stagingIn stages in the background.
func stagingIn(t testing.TB, tab *staging.Table[item], l staging.Load[item]) <-chan result[staging.Outcome] {
	return background(func() (staging.Outcome, error) { return tab.Stage(t.Context(), l) })
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

// untilWaiting returns when a backend of this database waits for a lock.
func untilWaiting(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	untilTrue(t, pool, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')")
}

// untilTrue returns when a query is true. It polls: Postgres sends no signal.
func untilTrue(t testing.TB, pool *pgxpool.Pool, sql string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !query[bool](t, pool, sql); <-time.After(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it stays false: %s", sql)
		}
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
