package matview

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrUnknownView says that a name is not in Config.Views.
	ErrUnknownView = errors.New("no such view in Config.Views")
	// ErrCycle says that views depend on each other in a circle.
	ErrCycle = errors.New("views depend on each other in a circle")
	// ErrDrift says that something in the database is not what the configuration describes. The error that
	// wraps it is a [*DriftError].
	ErrDrift = errors.New("differs from its definition")
	// ErrBlocked says that a view was not refreshed because one that it depends on failed.
	ErrBlocked = errors.New("not refreshed: a view that it depends on failed")
)

// DriftError lists how a view, an index or a roll-up in the database differs from its definition.
type DriftError struct {
	// Object is the name, with its kind: "materialized view sales_hourly".
	Object string
	// Differences has one sentence each.
	Differences []string
	// Fix says what to do.
	Fix string
}

func (e *DriftError) Error() string {
	return fmt.Sprintf("matview: %s %v: %s; %s", e.Object, ErrDrift, strings.Join(e.Differences, "; "), e.Fix)
}

// Unwrap makes errors.Is(err, ErrDrift) true.
func (e *DriftError) Unwrap() error { return ErrDrift }
