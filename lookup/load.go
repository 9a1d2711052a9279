package lookup

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Querier runs the queries of [FromQuery]: a *pgxpool.Pool, a *pgx.Conn or a pgx.Tx.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// FromMap returns a Loader that loads the table from a function returning a map.
func FromMap[K comparable, V any](load func(ctx context.Context) (map[K]V, error)) Loader[K, V] {
	return func(ctx context.Context, put func(K, V) error) error {
		if load == nil {
			return fmt.Errorf("%w: the function of FromMap is nil, must load a map", ErrConfig)
		}
		m, err := load(ctx)
		if err != nil {
			return err
		}
		for k, v := range m {
			if err := put(k, v); err != nil {
				return err
			}
		}
		return nil
	}
}

// FromQuery returns a Loader that loads a table from a query, row by row:
//
//   - The key is the first column or, if K is a struct, the columns named like its fields.
//   - The value consists of the columns named like V's fields or, if V is no struct, of the column
//     after the key.
//
// A field's name is its db tag, or else its own name, compared without case and underscores; "-"
// leaves it out. Each column must be used, and each field must have a column. If query and type no
// longer match, that is an error ([ErrConfig]), and no field is silently zero. Key columns may also
// be fields of V. A NULL in a key is [ErrNullKey]; elsewhere it needs a field that can hold it.
//
// Keys are read as the source compares them. A key of type char(n) loses its padding, and one of
// type numeric its trailing zeros, if K is a string. A text key that the source compares without
// regard to case (citext, or a nondeterministic collation) is an error, [ErrConfig]: a map cannot
// compare that way. Select lower(key), and look up lower-case keys.
//
// A query survives ALTER TABLE on its tables, also through a pooler that keeps prepared statements.
func FromQuery[K comparable, V any](db Querier, query string, args ...any) Loader[K, V] {
	return func(ctx context.Context, put func(K, V) error) error {
		if redisx.IsNil(db) {
			return fmt.Errorf("%w: the Querier of FromQuery is nil, must be a pool, a connection or a transaction", ErrConfig)
		}
		var columns []keyColumn
		err := eachRow(ctx, db, query, args, func(r *row) error {
			if r.n == 1 {
				columns = r.keyColumns()
			}
			k, v, err := scan[K, V](r)
			if err != nil {
				return err
			}
			if err := put(k, v); err != nil {
				return fmt.Errorf("row %d: %w", r.n, err)
			}
			return nil
		}, bindTo[K, V](0))
		if err != nil {
			return err
		}
		return checkKeys(ctx, db, columns)
	}
}

// FetchQuery returns a [RemoteConfig.Fetch] that runs a query with one parameter, the array of the
// keys: "SELECT sku, name, price FROM products WHERE sku = ANY($1)". Its columns are read like
// those of [FromQuery].
//
// The source matches keys and rows, with the = of the key column. So a key finds its row even if
// the source stores it padded (char(n)), in another case (citext, a case-insensitive collation) or
// with another scale (numeric). A key that the column cannot hold is missing: a text with a NUL, a
// text that is not valid UTF-8, or one that is not a number in a column of numbers. A type K that
// pgx cannot encode for the column is an error.
func FetchQuery[K comparable, V any](db Querier, query string) func(ctx context.Context, keys []K) (map[K]V, error) {
	f := &fetcher[K, V]{db: db, query: query}
	f.plain.Store(fieldsOf(reflect.TypeFor[K]()) != nil) // SQL cannot compare a struct with columns
	return f.fetch
}

// fetcher reads the rows of given keys.
type fetcher[K comparable, V any] struct {
	db    Querier
	query string
	plain atomic.Bool // the source cannot match keys and rows of this query: Go's == must do
}

func (f *fetcher[K, V]) fetch(ctx context.Context, keys []K) (map[K]V, error) {
	if redisx.IsNil(f.db) {
		return nil, fmt.Errorf("%w: the Querier of FetchQuery is nil, must be a pool, a connection or a transaction", ErrConfig)
	}
	found, err := f.read(ctx, keys)
	if !mayBeOfKey(err) {
		return found, err
	}
	possible, probeErr := f.possible(ctx, keys)
	if probeErr != nil || len(possible) == len(keys) {
		return nil, err // the error is that of a row
	}
	if len(possible) == 0 {
		return map[K]V{}, nil
	}
	return f.read(ctx, possible)
}

// read reads the rows of keys that the source takes.
func (f *fetcher[K, V]) read(ctx context.Context, keys []K) (found map[K]V, err error) {
	if !f.plain.Load() {
		err := f.attempt(ctx, func(db Querier) (err error) {
			found, err = f.matched(ctx, db, keys)
			return err
		})
		var refused *pgconn.PgError
		if err == nil || !errors.As(err, &refused) || !strings.HasPrefix(refused.Code, sqlStateSyntaxOrAccess) {
			return found, err
		}
	}
	found = make(map[K]V, len(keys))
	err = f.attempt(ctx, func(db Querier) error {
		return eachRow(ctx, db, f.query, []any{keys}, func(r *row) error {
			k, v, err := scan[K, V](r)
			if err != nil {
				return err
			}
			return addFound(found, k, v)
		}, bindTo[K, V](0))
	})
	if err != nil {
		return nil, err
	}
	f.plain.Store(true) // the query works as it is, so matching must have been what failed
	return found, nil
}

// attempt runs a statement that may fail. In a transaction it runs after a savepoint, because one
// that fails ends all that follow.
func (f *fetcher[K, V]) attempt(ctx context.Context, run func(db Querier) error) error {
	tx, ok := f.db.(pgx.Tx)
	if !ok {
		return run(f.db)
	}
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	if err := run(savepoint); err != nil {
		return errors.Join(err, savepoint.Rollback(context.WithoutCancel(ctx)))
	}
	return savepoint.Commit(ctx)
}

// mayBeOfKey reports whether the error may be that of a key which the type of the source's column
// cannot hold: no row has it.
func mayBeOfKey(err error) bool {
	switch sqlState(err) {
	case "22021", "22P05", // not in the character set, NUL included
		"22P02", "22P03", "22003", "22007", "22008": // not a value of the type
		return true
	case "": // pgx, in the type that the server has named
		return err != nil && strings.Contains(err.Error(), "failed to encode args[0]") && !strings.HasSuffix(err.Error(), noEncodePlan)
	}
	return false
}

// noEncodePlan ends pgx's error about a type none of whose values the parameter can hold: K does
// not fit the column, or the query compares it with $1 and not with ANY($1).
const noEncodePlan = "cannot find encode plan"

// possible leaves out the keys that the type of the parameter cannot hold. It finds them with a
// query that reads no row, of half the keys and half of these.
func (f *fetcher[K, V]) possible(ctx context.Context, keys []K) ([]K, error) {
	query := "SELECT 1 FROM (\n" + strings.TrimRight(f.query, "; \t\r\n") + "\n) AS headrace_found LIMIT 0"
	err := f.attempt(ctx, func(db Querier) error {
		return eachRow(ctx, db, query, []any{keys}, func(*row) error { return nil }, func([]pgconn.FieldDescription) (targets, error) { return nil, nil })
	})
	if !mayBeOfKey(err) {
		return keys, err
	}
	if len(keys) == 1 {
		return nil, nil
	}
	half := len(keys) / 2
	first, err := f.possible(ctx, keys[:half])
	if err != nil {
		return nil, err
	}
	second, err := f.possible(ctx, keys[half:])
	return slices.Concat(first, second), err
}

// sqlStateSyntaxOrAccess is the class of the SQLSTATEs of a statement that can never work: a
// missing operator, a name that is ambiguous.
const sqlStateSyntaxOrAccess = "42"

// matched lets the source match keys and rows. The query becomes a subquery; r renames its first
// column, whatever its name is.
func (f *fetcher[K, V]) matched(ctx context.Context, db Querier, keys []K) (map[K]V, error) {
	query := "SELECT headrace_asked.ord, headrace_found.* FROM (\n" + strings.TrimRight(f.query, "; \t\r\n") + "\n) AS headrace_found " +
		"JOIN unnest($1) WITH ORDINALITY AS headrace_asked (key, ord) " +
		"ON (SELECT r.key FROM (SELECT headrace_found.*) AS r (key)) = headrace_asked.key"
	found := make(map[K]V, len(keys))
	err := eachRow(ctx, db, query, []any{keys}, func(r *row) error {
		var ord int
		if err := r.rows.Scan(append([]any{&ord}, make([]any, len(r.columns)-1)...)...); err != nil {
			return fmt.Errorf("row %d: %w", r.n, err)
		}
		if ord < 1 || ord > len(keys) {
			return fmt.Errorf("row %d: unexpected position: got %d, want 1 to %d", r.n, ord, len(keys))
		}
		_, v, err := scan[K, V](r)
		if err != nil {
			return err
		}
		return addFound(found, keys[ord-1], v)
	}, bindTo[K, V](1))
	return found, err
}

func addFound[K comparable, V any](found map[K]V, k K, v V) error {
	if _, twice := found[k]; twice {
		return fmt.Errorf("%w: %s", ErrDuplicateKey, keyText(fmt.Sprint(k)))
	}
	found[k] = v
	return nil
}
