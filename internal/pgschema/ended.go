package pgschema

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// IsEnded reports whether an administrator or idle_session_timeout has ended the connection. If
// that is the first answer to a message that begins a transaction, the server has run no statement
// of it, because it answers them in their order. PgBouncer's own errors are not among these: it may
// have passed the message on.
func IsEnded(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "57P01" || pg.Code == "57P05")
}
