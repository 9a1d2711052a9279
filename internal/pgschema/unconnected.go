package pgschema

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/puddle/v2"
)

// UnconnectedError is the error of a pool that has handed out no connection: the server cannot be
// reached, a hook of the pool has failed, or the pool is closed. Nothing was sent, so the cause is
// never what the caller was about to write.
type UnconnectedError struct{ Err error }

func (e *UnconnectedError) Error() string { return e.Err.Error() }

func (e *UnconnectedError) Unwrap() error { return e.Err }

// Acquire takes a connection of a pool. Its error is an [*UnconnectedError].
func Acquire(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Conn, error) {
	c, err := pool.Acquire(ctx)
	if err != nil {
		return nil, &UnconnectedError{err}
	}
	return c, nil
}

// IsClosed reports whether a call failed because its pool is closed, which no retry changes.
func IsClosed(err error) bool { return errors.Is(err, puddle.ErrClosedPool) }
