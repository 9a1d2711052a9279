package matview

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Action is what Refresh did with a view.
type Action uint8

const (
	// Refreshed means that the view was refreshed.
	ActionRefreshed Action = iota + 1
	// Unchanged means that the version token was the same as at the last refresh.
	ActionUnchanged
	// Shared means that another process refreshed the view in a run that began after this one.
	ActionShared
	// Failed means that the refresh failed; the view is as it was.
	ActionFailed
	// Blocked means that a view it depends on failed.
	ActionBlocked
)

// String is the action in one word.
func (a Action) String() string {
	switch a {
	case ActionRefreshed:
		return "refreshed"
	case ActionUnchanged:
		return "unchanged"
	case ActionShared:
		return "shared"
	case ActionFailed:
		return "failed"
	case ActionBlocked:
		return "blocked"
	default:
		return fmt.Sprintf("Action(%d)", uint8(a))
	}
}

// Report says what one run did, in dependency order. Callers that shared a run get the same report.
type RefreshReport struct {
	Views []ViewResult
	// Version is the token of this run.
	Version  string
	Duration time.Duration
}

// Refresh is one view in a [Report].
type ViewResult struct {
	View   string
	Action Action
	// Concurrent says whether readers could go on while it was refreshed.
	Concurrent bool
	// Reason says why the refresh was not concurrent.
	Reason string
	// Took is the time of this refresh, the wait for the lock included.
	Duration time.Duration
	// Err is why it failed or was blocked.
	Err error
}

// run is one pass over the views, for all callers who wait for it.
type run struct {
	ctx     context.Context // with the values of its first caller; ends when the last one has left
	cancel  context.CancelFunc
	names   map[string]bool
	waiters int
	done    chan struct{}
	report  RefreshReport
	err     error // the run did not get as far as the views
}

// Refresh brings the named views, and those they depend on, up to date; no names means all of them. When a refresh is under way in this
// process, all calls that come meanwhile share the next one: what was committed before a call is in the views when it returns.
// A view that fails does not stop those that do not depend on it; the error joins the failures of the views that this call asked for.
func (r *Refresher) Refresh(ctx context.Context, names ...string) (RefreshReport, error) {
	mine, err := r.closure(names)
	if err != nil {
		return RefreshReport{}, err
	}
	if err := ctx.Err(); err != nil {
		return RefreshReport{}, fmt.Errorf("matview: refresh: %w", err)
	}
	r.mu.Lock()
	q := r.next
	if q == nil {
		q = &run{names: map[string]bool{}, done: make(chan struct{})}
		q.ctx, q.cancel = context.WithCancel(context.WithoutCancel(ctx))
		if r.current == nil {
			r.current = q
		} else {
			r.next = q
		}
	}
	start := r.current == q
	q.waiters++
	for n := range mine {
		q.names[n] = true
	}
	r.mu.Unlock()
	if start {
		go r.loop(q)
	}

	select {
	case <-q.done:
	case <-ctx.Done():
		r.mu.Lock()
		q.waiters--
		last := q.waiters == 0
		if last {
			q.cancel()
			if r.next == q {
				r.next = nil
				r.mu.Unlock()
				return RefreshReport{}, fmt.Errorf("matview: refresh: %w", ctx.Err())
			}
		}
		r.mu.Unlock()
		if last {
			<-q.done // so that nothing of it runs on when the caller closes the pool
		}
		return RefreshReport{}, fmt.Errorf("matview: refresh: %w", ctx.Err())
	}
	if q.err != nil {
		return q.report, q.err
	}
	var errs []error
	for _, v := range q.report.Views {
		if v.Err != nil && mine[v.View] {
			errs = append(errs, fmt.Errorf("matview: refresh %s: %w", v.View, v.Err))
		}
	}
	return q.report, errors.Join(errs...)
}

// loop does one run after the other until nobody waits.
func (r *Refresher) loop(q *run) {
	for q != nil {
		q.report, q.err = r.do(q)
		q.cancel()
		r.mu.Lock()
		close(q.done)
		q, r.next = r.next, nil
		r.current = q
		r.mu.Unlock()
	}
}

// do is one pass.
//
// Its token and its time are taken once, before the first view. A token read later, for a view that is built on another, could
// be newer than what that other view holds, and the next pass would call the upper one unchanged for ever.
func (r *Refresher) do(q *run) (RefreshReport, error) {
	start := time.Now()
	var began time.Time
	if err := r.pool.QueryRow(q.ctx, `SELECT clock_timestamp()`).Scan(&began); err != nil {
		return RefreshReport{}, fmt.Errorf("matview: refresh: %w", err)
	}
	var rep RefreshReport
	if r.cfg.Changed != nil {
		var err error
		if rep.Version, err = r.cfg.Changed(q.ctx); err != nil {
			return RefreshReport{}, fmt.Errorf("matview: refresh: Config.Changed: %w", err)
		}
	}
	failed := map[string]bool{}
	for _, v := range r.views {
		if !q.names[v.Name] {
			continue
		}
		viewStart := time.Now()
		res := ViewResult{View: v.Name}
		for _, d := range v.DependsOn {
			if failed[d] {
				res.Action, res.Err = ActionBlocked, fmt.Errorf("%w: %s", ErrBlocked, d)
			}
		}
		if res.Err == nil {
			if err := r.one(q.ctx, v, began, rep.Version, &res); err != nil {
				res.Action, res.Err = ActionFailed, err
			}
		}
		failed[v.Name] = res.Err != nil
		res.Duration = time.Since(viewStart)
		rep.Views = append(rep.Views, res)
	}
	rep.Duration = time.Since(start)
	return rep, nil
}

// one refreshes one view in a transaction of its own, or finds that there is no need to.
func (r *Refresher) one(ctx context.Context, v View, began time.Time, version string, res *ViewResult) error {
	name, state := mustIdent(v.Name), mustIdent(r.cfg.StateTable)
	return pgx.BeginTxFunc(ctx, r.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if err := r.limits(ctx, tx); err != nil {
			return err
		}
		// One process at a time, until the transaction ends: a session lock would stay with PgBouncer's server connection.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('headrace/matview/' || to_regclass($1)::oid, 0))`, name); err != nil {
			return fmt.Errorf("wait for another process that refreshes it: %w", err)
		}
		// A statement of its own: its snapshot is taken after the lock, and sees what the one before us has written.
		var oid *uint32
		var populated, current, same, plain bool
		if err := tx.QueryRow(ctx, `
			SELECT c.oid, coalesce(c.relispopulated, false), coalesce(s.as_of >= $2, false), coalesce(s.version = $3, false),
				EXISTS (`+plainUnique+`)
			FROM (SELECT to_regclass($1) AS oid) n LEFT JOIN pg_class c ON c.oid = n.oid
			LEFT JOIN `+state+` s ON s.name = $4 AND s.view = c.oid`,
			name, began, version, v.Name).Scan(&oid, &populated, &current, &same, &plain); err != nil {
			return fmt.Errorf("read its state: %w", err)
		}
		switch {
		case oid == nil:
			return errNoView
		case populated && current:
			res.Action = ActionShared
			return nil
		case populated && same && r.cfg.Changed != nil:
			res.Action = ActionUnchanged
			_, err := tx.Exec(ctx, `UPDATE `+state+` SET as_of = greatest(as_of, $2) WHERE name = $1`, v.Name, began)
			return err
		case !populated:
			res.Reason = "it was not populated yet"
		case !plain:
			res.Reason = "it has no unique index on plain columns"
		default:
			res.Concurrent = true
		}
		concurrently := ""
		if res.Concurrent {
			concurrently = "CONCURRENTLY "
		}
		start := time.Now()
		if _, err := tx.Exec(ctx, "REFRESH MATERIALIZED VIEW "+concurrently+name); err != nil {
			return err
		}
		if !r.cfg.SkipAnalyze {
			if _, err := tx.Exec(ctx, "ANALYZE "+name); err != nil {
				return err
			}
		}
		res.Action = ActionRefreshed
		// In the same transaction, so a token is never newer than the view.
		_, err := tx.Exec(ctx, `
			INSERT INTO `+state+` AS s (name, view, version, as_of, refreshed_at, took, refreshes) VALUES ($1, $2, $3, $4, clock_timestamp(), $5, 1)
			ON CONFLICT (name) DO UPDATE SET view = excluded.view, version = excluded.version, as_of = excluded.as_of,
				refreshed_at = excluded.refreshed_at, took = excluded.took, refreshes = s.refreshes + 1`,
			v.Name, *oid, version, began, time.Since(start))
		return err
	})
}
