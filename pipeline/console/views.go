package console

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/headrace/headrace/matview"
)

//go:embed views.sql
var viewsSQL string

// viewRefresher is a set of views that can be refreshed.
type viewRefresher interface {
	Refresh(ctx context.Context, names ...string) (matview.RefreshReport, error)
}

// namedViews reads a set of views by its name.
type namedViews struct {
	pool *pgxpool.Pool
	sql  string
}

func newNamedViews(pool *pgxpool.Pool, set string) (*namedViews, error) {
	name, err := pgschema.ParseName(set)
	if err != nil {
		return nil, fmt.Errorf("%w: Names.Views is %q, %w", ErrConfig, set, err)
	}
	return &namedViews{pool, pgschema.Fill(viewsSQL, "state", name.With("_views").String())}, nil
}

// Freshness describes the views. A set that does not exist yet has none.
func (v *namedViews) Freshness(ctx context.Context) ([]matview.Freshness, error) {
	rows, err := v.pool.Query(ctx, v.sql)
	if err == nil {
		var views []matview.Freshness
		if views, err = pgx.CollectRows(rows, scanFreshness); err == nil {
			return views, nil
		}
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == undefined {
		return nil, nil
	}
	return nil, fmt.Errorf("console: views: %w", err)
}

func scanFreshness(row pgx.CollectableRow) (f matview.Freshness, err error) {
	var refreshedAt, asOf *time.Time
	err = row.Scan(&f.View, &f.Populated, &refreshedAt, &f.Duration, &asOf, &f.Age, &f.Version, &f.Refreshes, &f.Bytes, &f.Rows)
	if refreshedAt != nil {
		f.RefreshedAt = *refreshedAt
	}
	if asOf != nil {
		f.AsOf = *asOf
	}
	return f, err
}
