package staging

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/pgschema"
)

// The server ends idle connections: by idle_session_timeout, by an administrator's
// pg_terminate_backend, or when it restarts. A pool notices that when it uses such a connection
// next. That is no error of the caller, so the call goes on with another connection, if the server
// has run nothing of it.

// idleEnd is the error of a message of which the server has run nothing: the connection was ended
// before.
type idleEnd struct{ error }

func (e *idleEnd) Unwrap() error { return e.error }

// retryIdle runs f, and again as long as it meets connections that were ended while they were idle:
// at most as many as the pool has, like pgxpool itself when it pings them.
func retryIdle(ctx context.Context, pool *pgxpool.Pool, f func() error) error {
	for left := pool.Stat().MaxConns(); ; left-- {
		err := f()
		var idle *idleEnd
		if left <= 0 || ctx.Err() != nil || !errors.As(err, &idle) {
			return err
		}
	}
}

// acquire takes a connection of the pool that works. It costs a round trip: staging a batch and
// promoting use retryIdle.
func acquire(ctx context.Context, pool *pgxpool.Pool) (conn *pgxpool.Conn, err error) {
	err = retryIdle(ctx, pool, func() error {
		c, err := pgschema.Acquire(ctx, pool)
		if err != nil {
			return err
		}
		if _, err := sendOne(ctx, c.Conn(), do("SELECT")); err != nil {
			c.Release()
			return err
		}
		conn = c
		return nil
	})
	return conn, err
}
