package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/staging"
)

// ErrNoTable reports that a database does not hold the tables of a pipeline: no worker has started
// yet.
var ErrNoTable = errors.New("ops: no such pipeline")

const remedy = "correct --table, or start a worker, which creates what is missing"

func noTable(pool *pgxpool.Pool, table string) error {
	at := pool.Config().ConnConfig
	return fmt.Errorf("%w: the database %s has no table %s: %s", ErrNoTable, cmp.Or(at.Database, at.User), table, remedy)
}

// Ledger reads what package staging keeps about a table, and takes the place of the table in a
// [pipeline.Flow] whose books are read.
type Ledger struct {
	notCalled
	*staging.Ledger
	table string // as it was given
}

// notCalled has the methods of a table that the books do not call.
type notCalled struct{ pipeline.Table[struct{}] }

// OpenLedger finds the ledger of a table ("orders" or "shop.orders"). The error wraps ErrNoTable if
// there is none.
func OpenLedger(ctx context.Context, pool *pgxpool.Pool, table string) (*Ledger, error) {
	l, err := staging.OpenLedger(ctx, pool, table)
	switch {
	case errors.Is(err, staging.ErrNoTarget):
		return nil, noTable(pool, table)
	case errors.Is(err, staging.ErrMissing):
		return nil, fmt.Errorf("%w: in the database %s, %w: %s", ErrNoTable, pool.Config().ConnConfig.Database, err, remedy)
	case err != nil:
		return nil, err
	}
	return &Ledger{Ledger: l, table: table}, nil
}
