package staging

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrConfig is wrapped by every error about a Config that cannot be used.
	ErrConfig = errors.New("bad configuration")
	// ErrLoad is wrapped by every error about a Load that does not add up; nothing was written.
	ErrLoad = errors.New("bad load")
	// ErrDrift is wrapped by a [DriftError]: a table that exists has another shape than the program expects.
	ErrDrift = errors.New("table has another shape")
	// ErrNotTable says that the target is a view, a foreign table or something else that cannot be promoted into.
	ErrNotTable = errors.New("not a table")
	// ErrNoTarget says that the target does not exist and Config.Create is not set.
	ErrNoTarget = errors.New("target does not exist")
	// ErrPermission says that the role lacks a privilege; the text names the privilege and the table.
	ErrPermission = errors.New("permission denied")
	// ErrBusy says that a lock was not to be had within its time-out: another promoter is at work, or a worker is
	// slow. Nothing was changed; try again.
	ErrBusy = errors.New("locked by another transaction")
	// ErrTooOld says that a batch was sealed before the floor under which the ledger was pruned: whether it has been
	// promoted is not known any more, so it is not promoted.
	ErrTooOld = errors.New("batch is older than the ledger remembers")
	// ErrConflict is wrapped by the error of a promotion that met a key that exists, with Conflict Fail.
	ErrConflict = errors.New("key exists")
	// ErrUnknown is wrapped by the error of a commit whose outcome is not known. Everything here is idempotent by
	// batch id: do it again.
	ErrUnknown = errors.New("outcome of the commit is not known")
)

// Drift is one difference between the shape of a table and what the program expects.
type Drift struct {
	Column   string
	Expected string
	Found    string // "" when the column is missing
}

// A DriftError says how a table differs from what the program expects, column by column.
type DriftError struct {
	Table  string
	Drifts []Drift
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
	return b.String()
}

// Unwrap makes errors.Is(err, ErrDrift) true.
func (e *DriftError) Unwrap() error { return ErrDrift }
