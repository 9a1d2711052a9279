package pgschema

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrStandby reports a server that is the standby of another one.
var ErrStandby = errors.New("the server is a standby: it accepts no writes")

// standbyCodes are the SQLSTATEs of what a standby refuses: a transaction that writes, a table that
// only the primary has (UNLOGGED), a strong lock.
var standbyCodes = []string{"25006", "0A000", "55000"}

// NameStandby returns an error that wraps [ErrStandby] and err if a standby has refused what failed
// with err, and err otherwise. It asks the server only where the error leaves that open. q must not
// be the connection of a transaction that has failed.
func NameStandby(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, err error,
) error {
	if !MayBeStandby(err) {
		return err
	}
	var pg *pgconn.PgError
	errors.As(err, &pg)
	standby := isRecovery(pg)
	if !standby && (q.QueryRow(ctx, "SELECT pg_is_in_recovery()", pgx.QueryExecModeSimpleProtocol).Scan(&standby) != nil || !standby) {
		return err
	}
	return &standbyError{pg, err}
}

// isRecovery reports whether only a standby returns such an error. One that is promoted a moment
// later would answer that it is none.
func isRecovery(pg *pgconn.PgError) bool {
	switch pg.Code {
	case "0A000": // BEGIN READ WRITE, and a read of an UNLOGGED table
		return pg.Routine == "call_bool_check_hook" || pg.Routine == "get_relation_info"
	case "25006": // LOCK TABLE
		return pg.Routine == "PreventCommandDuringRecovery"
	}
	return false
}

// MayBeStandby reports whether a standby returns such an error, among others.
func MayBeStandby(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && slices.Contains(standbyCodes, pg.Code)
}

type standbyError struct {
	server *pgconn.PgError
	err    error
}

func (e *standbyError) Error() string {
	return ErrStandby.Error() + " (" + e.server.Error() + "): connect to the primary, for example with target_session_attrs=read-write"
}

func (e *standbyError) Unwrap() []error { return []error{ErrStandby, e.err} }
