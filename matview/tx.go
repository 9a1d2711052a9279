package matview

import (
	"context"
	"errors"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// beginOn runs f in a transaction of the pool.
//
// The server ends idle connections (idle_session_timeout, pg_terminate_backend, a restart), and the
// pool notices that when it uses such a connection next. If the BEGIN fails so, the server has run
// nothing, and another connection is taken: at most as many as the pool has.
func beginOn(ctx context.Context, pool *pgxpool.Pool, options pgx.TxOptions, f func(tx pgx.Tx) error) error {
	for left := pool.Stat().MaxConns(); ; left-- {
		begun := false
		err := pgx.BeginTxFunc(ctx, pool, options, func(tx pgx.Tx) error {
			begun = true
			return f(unnamed(tx))
		})
		if begun || left <= 0 || ctx.Err() != nil || !pgschema.IsEnded(err) {
			return err
		}
	}
}

// unnamedTx prepares no named statement. A pooler that does not follow those gives the next
// transaction another server connection, which does not know the statement. The unnamed one is
// described and run in the same transaction.
type unnamedTx struct{ pgx.Tx }

// unnamed returns tx with statements that any pooler can pass on. A mode of the caller's that
// prepares nothing stays.
func unnamed(tx pgx.Tx) pgx.Tx {
	switch tx.Conn().Config().DefaultQueryExecMode {
	case pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe:
		return unnamedTx{tx}
	}
	return tx
}

func (t unnamedTx) Begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := t.Tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return unnamedTx{tx}, nil
}

func (t unnamedTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if len(args) > 0 { // pgx prepares nothing otherwise, and may send several statements
		args = described(args)
	}
	return t.Tx.Exec(ctx, sql, args...)
}

func (t unnamedTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return t.Tx.Query(ctx, sql, described(args)...)
}

func (t unnamedTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return t.Tx.QueryRow(ctx, sql, described(args)...)
}

// described puts the mode before the arguments.
func described(args []any) []any {
	return append([]any{pgx.QueryExecModeDescribeExec}, args...)
}

// errUndo makes attempt roll back what went well.
var errUndo = errors.New("matview: roll back")

// attempt runs a part of a transaction. If f fails, what it did is rolled back and the transaction
// goes on. Nothing of the part is left: nested transactions of pgx stay open after their rollback,
// and hundreds of them, each in the one before, exhaust the server's table of locks.
func attempt(ctx context.Context, tx pgx.Tx, f func() error) error {
	if _, err := tx.Exec(ctx, `SAVEPOINT headrace`); err != nil {
		return err
	}
	err := f()
	end := `RELEASE SAVEPOINT headrace`
	if err != nil {
		end = `ROLLBACK TO SAVEPOINT headrace; RELEASE SAVEPOINT headrace`
	}
	if _, e := tx.Exec(ctx, end); e != nil {
		return errors.Join(err, e)
	}
	return err
}
