package matview_test

import (
	"context"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/jackc/pgx/v5/pgxpool"
)

func TestMain(m *testing.M) { servertest.Main(m) }

// exec runs statements that must work.
func exec(t testing.TB, pool *pgxpool.Pool, sql ...string) {
	t.Helper()
	for _, s := range sql {
		if _, err := pool.Exec(context.WithoutCancel(t.Context()), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// one reads a single value.
func one[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (v T) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}
