package lookup

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// Querier is what FromQuery needs of a *pgxpool.Pool, a *pgx.Conn or a pgx.Tx.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// FromQuery loads a table from a query: the key is the first column or, where K is a struct, the columns named like
// its fields; the value is made of the columns named like V's fields or, where V is no struct, of the second column.
func FromQuery[K comparable, V any](db Querier, sql string, args ...any) Loader[K, V] {
	return func(ctx context.Context, put func(K, V) error) error { return errors.ErrUnsupported }
}

// FromMap loads a table from a function that returns a map.
func FromMap[K comparable, V any](load func(ctx context.Context) (map[K]V, error)) Loader[K, V] {
	return func(ctx context.Context, put func(K, V) error) error {
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
