package staging

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

var (
	// ErrConfig is wrapped by every error about an invalid configuration.
	ErrConfig = errors.New("staging: invalid configuration")
	// ErrLoad is wrapped by every error about a Load whose counts do not add up. Nothing was written.
	ErrLoad = errors.New("staging: invalid load")
	// ErrDrift is wrapped by a [DriftError]: an existing table does not have the expected shape. So is
	// something that was removed from the companion tables, or that keeps them from holding what is
	// written; the text names it and what helps.
	ErrDrift = errors.New("staging: table has another shape")
	// ErrNotTable is returned when the target is a view, a foreign table or another relation that
	// cannot be a target.
	ErrNotTable = errors.New("staging: not a table")
	// ErrUnlogged is returned when the target, or a partition of it, is UNLOGGED and
	// Config.AllowUnlogged is not set; and always if the ledger, the rejects or the control table is.
	ErrUnlogged = errors.New("staging: a crash of the server would empty the target")
	// ErrUnfit is returned when the target has a rule that rewrites an insert, a foreign table as a
	// partition, or, without Config.Key, child tables by inheritance and a trigger that may store rows
	// in them; with ConflictReplace, also when it is published and has no replica identity. The text
	// names it.
	ErrUnfit = errors.New("staging: table cannot be a target")
	// ErrNoTarget is returned when the target does not exist and Config.Create is not set.
	ErrNoTarget = errors.New("staging: target does not exist")
	// ErrMissing is returned when a companion table does not exist and Config.NoCreate is set.
	ErrMissing = errors.New("staging: table does not exist")
	// ErrPrivilege is returned when the role lacks a privilege. The text names the privilege and the
	// table.
	ErrPrivilege = errors.New("staging: permission denied")
	// ErrBusy is returned when a lock could not be acquired within its timeout: another promoter is
	// at work, or a worker is slow. Nothing was changed; try again.
	ErrBusy = errors.New("staging: locked by another transaction")
	// ErrTooOld is returned for a batch that was sealed before the ledger's floor. The ledger no
	// longer records whether it was promoted, so it is not promoted.
	ErrTooOld = errors.New("staging: batch is older than the ledger's floor")
	// ErrConflict is wrapped by a [ConflictError]: a promotion met an existing key under ConflictFail.
	ErrConflict = errors.New("staging: key exists")
	// ErrMerge is wrapped by the error of a promotion in which a merge failed. The text names the
	// merge. Nothing was changed, and no row was rejected.
	ErrMerge = errors.New("staging: merge failed")
	// ErrUnknown is wrapped by the error of a commit whose outcome is unknown. The calls of this
	// package are idempotent: call again.
	ErrUnknown = errors.New("staging: outcome of the commit is unknown")
	// ErrNotDurable is wrapped, together with ErrUnknown, by the error of a commit that is done on the
	// server and that no synchronous standby has confirmed. Losing the server would lose the commit,
	// so nothing in it may be acknowledged yet. Call again: the call succeeds when a standby has it.
	ErrNotDurable = errors.New("staging: commit is not confirmed by a synchronous standby")
	// ErrStuck is wrapped by the error of [Stats.Stuck].
	ErrStuck = errors.New("staging: promotions fail")
	// ErrImbalance is wrapped by the error of [Books.Balanced].
	ErrImbalance = errors.New("staging: the books do not balance")
)

// Drift is one difference between the shape of a table and what the program expects.
type Drift struct {
	Column   string
	Expected string
	Found    string // "" when the column is missing
}

// A DriftError lists how a table differs from what the program expects, column by column.
type DriftError struct {
	Table  string
	Drifts []Drift
	Fix    string // how to fix it; "" if that depends on the intention
}

func (e *DriftError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "staging: table %s has another shape:", e.Table)
	for i, d := range e.Drifts {
		if i > 0 {
			b.WriteByte(';')
		}
		switch {
		case d.Found == "":
			fmt.Fprintf(&b, " column %q is missing (expected %s)", d.Column, d.Expected)
		case d.Expected == "":
			fmt.Fprintf(&b, " column %q (%s) is not expected", d.Column, d.Found)
		default:
			fmt.Fprintf(&b, " column %q: expected %s, found %s", d.Column, d.Expected, d.Found)
		}
	}
	if e.Fix != "" {
		b.WriteString("; " + e.Fix)
	}
	return b.String()
}

// Unwrap makes errors.Is(err, ErrDrift) true.
func (e *DriftError) Unwrap() error { return ErrDrift }

// A ConflictError names the record that made a promotion under ConflictFail fail: the first one
// whose key the target has, or an earlier row has. Void its batch, or correct the target.
type ConflictError struct {
	Table string
	Rows  int // rows of the promotion whose key the target has
	// Key is the record's key, a JSON object of the key's columns. It is "" if the target's row has
	// gone meanwhile.
	Key   string
	Batch string
	Pos   int32  // index of the record in the batch
	Root  string // the batch in which the record was first sealed
	Place int    // index of the record in Root
}

func (e *ConflictError) Error() string {
	s := fmt.Sprintf("%v: %s or an earlier row has the key of %d staged rows", ErrConflict, e.Table, e.Rows)
	if e.Batch == "" {
		return s
	}
	return s + fmt.Sprintf("; the first is %s: record %d of batch %s (place %d of %s)", e.Key, e.Pos, e.Batch, e.Place, e.Root)
}

// Unwrap makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// SQLSTATEs, under the names that Postgres gives them.
const (
	undefinedTable        = "42P01"
	insufficientPrivilege = "42501"
	lockNotAvailable      = "55P03"
	deadlockDetected      = "40P01"
	serializationFailure  = "40001"
	queryCanceled         = "57014"
)

// explain wraps an error from Postgres with what was being done. It marks a missing privilege, with
// the GRANT that helps, and a lock that could not be acquired.
func (t *table) explain(doing string, err error) error {
	switch sqlState(err) {
	case insufficientPrivilege:
		role, lacks := t.lackingNow()
		return unprivileged(doing, err, role, lacks)
	case lockNotAvailable:
		return fmt.Errorf("%w: %s: %w", ErrBusy, doing, err)
	}
	return &contextError{doing, err, t.removedFix(err)}
}

// explainSQL does the same for SQL of the configuration: an ErrConfig if Postgres cannot read it.
func (t *table) explainSQL(field string, err error) error {
	if state := sqlState(err); strings.HasPrefix(state, "42") && state != insufficientPrivilege {
		return fmt.Errorf("%w: %s: %w", ErrConfig, field, err)
	}
	return t.explain(field, err)
}

// contextError is an error with what was being done. Its text begins with the package's name once.
type contextError struct {
	doing string
	err   error
	fix   string // if known
}

// Where Postgres gives a hint, such as the setting to change, the text ends with it.
func (e *contextError) Error() string {
	text := "staging: " + e.doing + ": " + strings.TrimPrefix(e.err.Error(), "staging: ")
	var pg *pgconn.PgError
	if errors.As(e.err, &pg) && pg.Hint != "" {
		text += " (hint: " + pg.Hint + ")"
	}
	if unpublished(e.err) {
		text += " (" + pg.Detail + ")"
	}
	if e.fix != "" {
		text += "; " + e.fix
	}
	return text
}

func (e *contextError) Unwrap() error { return e.err }

// unpublished is true if a publication keeps Postgres from updating the rows of a table. What is
// wrong with it is in the detail.
func unpublished(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Routine == "CheckCmdReplicaIdentity" && pg.Detail != ""
}

// sqlState returns the code of an error that came from Postgres, or "".
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}
