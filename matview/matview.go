package matview

import (
	"context"
	"sync"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DB runs the statements of a [Rollup]: a *pgxpool.Pool, a *pgx.Conn, or a pgx.Tx whose transaction
// the roll-up's work joins.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Refresher refreshes the views of one [Config]. This type is concurrency safe.
type Refresher struct {
	pool  *pgxpool.Pool
	cfg   Config
	state string       // the quoted name of the state table
	views []View       // in dependency order
	deps  dependencies // declared, and from the catalogue

	schedule schedule // of Run

	mu      sync.Mutex
	current *run // the run under way
	next    *run // what callers that came since then wait for
}

// New creates the state table, the views and the indexes that are missing, and checks the others: a
// view that differs from its definition is a [*DriftError]. It drops and replaces nothing. If
// everything exists, it needs no CREATE privilege. It checks the privileges for later refreshes
// too, and lists all missing ones in one [ErrPrivilege].
//
// The name is that of the set of views: `name` or `schema.name`. The state table is name_views. New
// never closes the pool.
func New(ctx context.Context, pool *pgxpool.Pool, name string, cfg Config) (*Refresher, error) {
	state, err := stateTable(name)
	if err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	r := &Refresher{pool: pool, cfg: cfg, state: state.String(), deps: declared(cfg.Views), schedule: schedule{wake: make(chan struct{}, 1)}}
	if r.views, err = r.deps.order(cfg.Views); err != nil {
		return nil, err
	}
	if pool == nil {
		return nil, invalid("pool is nil, must be a *pgxpool.Pool")
	}
	created, err := r.install(ctx)
	if err != nil {
		return nil, explain(pgschema.NameStandby(ctx, pool, err), "views of %s", name)
	}
	if cfg.Populate && len(created) > 0 {
		if _, err := r.Refresh(ctx, created...); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// stateTable names the state table of a set of views.
func stateTable(name string) (pgschema.Name, error) {
	n, err := pgschema.ParseName(name)
	if err != nil {
		return n, invalid("name is %q, %w", name, err)
	}
	return n.With("_views"), nil
}

// idleTimeout ends a transaction whose program is frozen, so that it does not hold up the others.
const idleTimeout = time.Minute

// begin runs f in a transaction with settings of its own, whatever the defaults of the server are.
func (r *Refresher) begin(ctx context.Context, f func(tx pgx.Tx) error) error {
	return beginOn(ctx, r.pool, ownTx, func(tx pgx.Tx) error {
		if err := limit(ctx, tx, r.cfg.Timeout, r.cfg.LockTimeout); err != nil {
			return err
		}
		return f(tx)
	})
}

// ownTx sees what others have committed after it waited for a lock. A default of REPEATABLE READ
// would hide it. The server's own limit for idle transactions may be shorter than a round trip.
var ownTx = pgx.TxOptions{BeginQuery: "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL idle_in_transaction_session_timeout = '1min'"}

// limit sets the time limits of a transaction.
func limit(ctx context.Context, tx pgx.Tx, statement, lock time.Duration) error {
	_, err := tx.Exec(ctx, pgschema.Settings, pgschema.Millis(statement), pgschema.Millis(lock), pgschema.Millis(idleTimeout))
	return err
}
