package matview

import (
	"context"
	_ "embed"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
)

//go:embed freshness.sql
var freshnessSQL string

// Freshness describes a view.
type Freshness struct {
	View      string
	Populated bool
	// RefreshedAt is when the last refresh ended, zero if there was none. Duration is how long it
	// took.
	RefreshedAt time.Time
	Duration    time.Duration
	// AsOf is the time up to which the view is known to hold everything that was committed, zero if
	// unknown. It also advances without a refresh, when Config.Changed returns the token of the last
	// one.
	AsOf time.Time
	// Age is the server's time since AsOf.
	Age time.Duration
	// NextDue is when [Refresher.Run] refreshes the view next: after a notice, or again after a
	// failure. It is zero if neither is due.
	NextDue time.Time
	// Version is the token of the last refresh.
	Version string
	// Refreshes counts the refreshes.
	Refreshes int64
	// Bytes is the size with its indexes.
	Bytes int64
	// Rows is the planner's estimate, -1 if there is none.
	Rows int64
}

// Freshness describes every view, in dependency order. It reads the catalogue and the state table,
// and no view.
func (r *Refresher) Freshness(ctx context.Context) ([]Freshness, error) {
	views := make([]Freshness, len(r.views))
	byName := make(map[string]*Freshness, len(r.views))
	for i, v := range r.views {
		views[i] = Freshness{View: v.Name, Rows: -1}
		byName[v.Name] = &views[i]
	}
	names, idents := namesOf(r.views)
	var (
		f             Freshness
		refreshedAt   *time.Time
		asOf          *time.Time
		duration, age *time.Duration
	)
	columns := []any{&f.View, &f.Populated, &refreshedAt, &duration, &asOf, &age, &f.Version, &f.Refreshes, &f.Bytes, &f.Rows}
	each := func() error {
		g := f
		if refreshedAt != nil {
			g.RefreshedAt, g.Duration = *refreshedAt, *duration
		}
		if asOf != nil {
			g.AsOf, g.Age = *asOf, *age
		}
		g.NextDue = r.schedule.nextOf(f.View, r.cfg.Debounce, r.cfg.MaxStaleness)
		*byName[f.View] = g
		return nil
	}
	err := beginOn(ctx, r.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, pgschema.Fill(freshnessSQL, "state", r.state), names, idents)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, columns, each)
		return err
	})
	if err != nil {
		return nil, explain(err, "freshness")
	}
	return views, nil
}
