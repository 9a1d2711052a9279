package console

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/matview"
)

// viewRefresher is a set of views that can be refreshed.
type viewRefresher interface {
	Refresh(ctx context.Context, names ...string) (matview.RefreshReport, error)
}

// namedViews is a set of views by its name. It may be created later, and get further views.
type namedViews struct {
	pool *pgxpool.Pool
	set  string
}

func (v namedViews) open(ctx context.Context) (*matview.Refresher, error) {
	return matview.Open(ctx, v.pool, v.set, matview.Config{})
}

// Freshness describes the views. A set that does not exist yet has none.
func (v namedViews) Freshness(ctx context.Context) ([]matview.Freshness, error) {
	r, err := v.open(ctx)
	if errors.Is(err, matview.ErrMissing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return r.Freshness(ctx)
}

// Refresh refreshes the named views and those that they read.
func (v namedViews) Refresh(ctx context.Context, names ...string) (matview.RefreshReport, error) {
	r, err := v.open(ctx)
	if err != nil {
		return matview.RefreshReport{}, err
	}
	return r.Refresh(ctx, names...)
}
