package matview

import (
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/jackc/pgx/v5"
)

// A part of a transaction that fails leaves no savepoint. Each would be the parent of what follows,
// and get a transaction id and a lock with the first row that is written.
func TestFailedPartsLeaveNothing(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		for range 20 {
			if err := attempt(t.Context(), tx, func() error {
				_, err := tx.Exec(t.Context(), `SELECT nosuch`)
				return err
			}); sqlState(err) != "42703" {
				t.Errorf("got %v, want the error of the part", err)
			}
		}
		if err := attempt(t.Context(), tx, func() error {
			_, err := tx.Exec(t.Context(), `CREATE TABLE kept (n int)`)
			return err
		}); err != nil {
			return err
		}
		var locks int
		err := tx.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'transactionid'`).Scan(&locks)
		if locks > 2 {
			t.Errorf("%d transaction ids, want at most 2: of the transaction, and of the part that wrote", locks)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
