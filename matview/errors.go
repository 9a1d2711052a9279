package matview

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/headrace/headrace/internal/pgschema"
)

var (
	// ErrConfig is wrapped by every error about an invalid name, [Config] or [Rollup]. The text names
	// the field, its value and the requirement.
	ErrConfig = errors.New("matview: invalid configuration")
	// ErrUnknownView is wrapped by the error of a call that names a view outside Config.Views.
	ErrUnknownView = errors.New("matview: unknown view")
	// ErrDrift is wrapped by a [DriftError].
	ErrDrift = errors.New("matview: object differs from its definition")
	// ErrMissing is wrapped by an error about a table, a view or an index that does not exist and
	// must not be created (Config.NoCreate, [Rollup.Verify]), or that was dropped.
	ErrMissing = errors.New("matview: object does not exist")
	// ErrPrivilege is wrapped by an error that lists every privilege which the role lacks, with the
	// GRANT for each.
	ErrPrivilege = errors.New("matview: missing privileges")
	// ErrBlocked is wrapped by the result of a view that was not refreshed because a view which it
	// reads failed.
	ErrBlocked = errors.New("matview: not refreshed because a view that it reads failed")
)

// DriftError lists how a view, an index or a roll-up in the database differs from its definition.
type DriftError struct {
	// Object is the name with its kind: "materialized view sales_hourly".
	Object string
	// Differences has one sentence for each difference.
	Differences []string
	// Fix is how to fix it.
	Fix string
}

func (e *DriftError) Error() string {
	return fmt.Sprintf("matview: %s differs from its definition: %s; %s", e.Object, strings.Join(e.Differences, "; "), e.Fix)
}

// Unwrap makes errors.Is(err, ErrDrift) true.
func (e *DriftError) Unwrap() error { return ErrDrift }

// invalid makes an ErrConfig.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...)
}

// lacking makes an ErrPrivilege, or nil if nothing is lacking. Ownership cannot be granted: owners
// names what must belong to the role.
func lacking(role string, lacks []pgschema.Lack, owners []string) error {
	if len(lacks) == 0 && len(owners) == 0 {
		return nil
	}
	fixes := pgschema.Fixes(lacks)
	for _, o := range owners {
		fixes = strings.TrimSpace(fixes + fmt.Sprintf(" ALTER %s OWNER TO %s;", o, pgschema.Quote(role)))
	}
	return fmt.Errorf("%w: role %q needs: %s", ErrPrivilege, role, fixes)
}

// contextError puts what was being done in front of an error, without naming the package twice.
type contextError struct {
	what string
	err  error
}

func (e *contextError) Error() string {
	text := "matview: " + e.what + ": " + strings.TrimPrefix(e.err.Error(), "matview: ")
	var pg *pgconn.PgError
	if errors.As(e.err, &pg) && pg.Detail != "" {
		text += ": " + pg.Detail
	}
	return text
}

func (e *contextError) Unwrap() error { return e.err }

// ofView explains an error about the SQL of a view. It is an ErrConfig if Postgres cannot read it.
// A missing table is not: it may come later.
func ofView(name string, err error) error {
	switch state := sqlState(err); {
	case state == undefinedTable, state == insufficientPrivilege, !strings.HasPrefix(state, "42"):
		return &contextError{"the SQL of view " + name, err}
	}
	return invalid("Config.Views, the SQL of view %s: %w", name, err)
}

// explain adds context to an error; the errors of this package that name their object already stay
// as they are.
func explain(err error, format string, args ...any) error {
	if err == nil || errors.Is(err, ErrDrift) || errors.Is(err, ErrConfig) || errors.Is(err, ErrPrivilege) || errors.Is(err, ErrMissing) {
		return err
	}
	var done *contextError
	if errors.As(err, &done) && !errors.Is(err, pgschema.ErrStandby) {
		return err
	}
	return &contextError{fmt.Sprintf(format, args...), err}
}
