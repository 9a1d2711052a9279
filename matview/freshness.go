package matview

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Freshness describes a view.
type Freshness struct {
	View      string
	Populated bool
	// RefreshedAt is when the last refresh ended, zero if never, and Took how long it took.
	RefreshedAt time.Time
	Duration    time.Duration
	// AsOf is the time up to which the view is known to hold everything that was committed, zero if unknown. It moves on without a
	// refresh when Config.Changed says that nothing has changed.
	AsOf time.Time
	// Age is the server's time since AsOf.
	Age time.Duration
	// Version is the token of the last refresh, and Refreshes how many there were.
	Version   string
	Refreshes int64
	// Bytes is the size with its indexes.
	Bytes int64
	// Rows is the planner's estimate; -1 if there is none.
	Rows int64
}

// Freshness describes every view, in dependency order, from the catalogue: it reads no view.
func (r *Refresher) Freshness(ctx context.Context) ([]Freshness, error) {
	out := make([]Freshness, len(r.views))
	names, idents, at := make([]string, len(r.views)), make([]string, len(r.views)), make(map[string]*Freshness, len(r.views))
	for i, v := range r.views {
		names[i], idents[i] = v.Name, mustIdent(v.Name)
		out[i] = Freshness{View: v.Name, Rows: -1}
		at[v.Name] = &out[i]
	}
	rows, err := r.pool.Query(ctx, `
		SELECT n.name, c.relispopulated, s.refreshed_at, s.took, s.as_of, clock_timestamp() - s.as_of, coalesce(s.version, ''), coalesce(s.refreshes, 0),
			pg_total_relation_size(c.oid), CASE WHEN c.relispopulated THEN c.reltuples::bigint ELSE -1 END
		FROM unnest($1::text[], $2::text[]) n(name, ident) JOIN pg_class c ON c.oid = to_regclass(n.ident)
		LEFT JOIN `+mustIdent(r.cfg.StateTable)+` s ON s.name = n.name AND s.view = c.oid`, names, idents)
	if err != nil {
		return nil, fmt.Errorf("matview: freshness: %w", err)
	}
	var (
		f             Freshness
		refreshed, as *time.Time
		took, age     *time.Duration
	)
	_, err = pgx.ForEachRow(rows, []any{&f.View, &f.Populated, &refreshed, &took, &as, &age, &f.Version, &f.Refreshes, &f.Bytes, &f.Rows}, func() error {
		g := f
		if refreshed != nil {
			g.RefreshedAt, g.Duration, g.AsOf, g.Age = *refreshed, *took, *as, *age
		}
		*at[f.View] = g
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("matview: freshness: %w", err)
	}
	return out, nil
}
