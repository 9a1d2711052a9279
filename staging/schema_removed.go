package staging

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// What someone has removed or changed by hand in the companion tables: each error names it, and the
// way back. Nothing is lost by it as long as the queue has the batches.

// controlRow returns the one row of the control table, from the result of a statement on it.
func (t *table) controlRow(r result) (record, error) {
	if len(r.Rows) > 0 {
		return r.row(0), nil
	}
	return record{}, fmt.Errorf("%w: %s has lost its one row: INSERT INTO %s (target, open) VALUES (%s, %s), and, if the ledger was pruned, set floor to the time of the last Prune and pruned to NULL",
		ErrDrift, t.control, t.control, literal(t.target), literal(strings.Repeat("a", len(t.lane))))
}

// openSides returns the letters of the open sides, one a lane, from the result of a statement on
// the control table.
func (t *table) openSides(r result) (string, error) {
	row, err := t.controlRow(r)
	if err != nil {
		return "", err
	}
	return row.text("open"), nil
}

// removedFix is what helps if Postgres misses a table, a column or an index that a statement of
// this package names.
func (t *table) removedFix(err error) string {
	var pg *pgconn.PgError
	// In a function of the user, in a merge, or in SQL of the configuration.
	if !errors.As(err, &pg) || pg.Where != "" || errors.Is(err, ErrMerge) || errors.Is(err, ErrConfig) || unpublished(err) {
		return ""
	}
	switch pg.Code {
	case undefinedTable, "42703", "42P10": // undefined_column, invalid_column_reference: no index for ON CONFLICT
		return "if it was removed from the companion tables of " + t.target + ", start the program again: New creates what is missing, or names it"
	}
	return ""
}

// checkBookkeeping returns an error if the durable companion tables cannot keep what they promise.
// A crash would empty an UNLOGGED ledger, and its batches would be promoted once more.
func (t *table) checkBookkeeping(r record) error {
	if unlogged := r.text("forgetful"); unlogged != "" {
		return fmt.Errorf("%w or its bookkeeping: %s: %s is UNLOGGED: ALTER TABLE … SET LOGGED", ErrUnlogged, t.target, unlogged)
	}
	if !r.bool("ledger_key") {
		return fmt.Errorf("%w: %s no longer has a unique index on id: ALTER TABLE %s ADD PRIMARY KEY (id)", ErrDrift, t.ledger, t.ledger)
	}
	return nil
}
