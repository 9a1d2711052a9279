package matview

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
)

var (
	//go:embed started.sql
	startedSQL string
	//go:embed refresh_state.sql
	refreshStateSQL string
	//go:embed refresh_unchanged.sql
	refreshUnchangedSQL string
	//go:embed refresh_record.sql
	refreshRecordSQL string
)

// Action is what a refresh did with a view.
type Action uint8

const (
	// ActionRefreshed means that the view was refreshed.
	ActionRefreshed Action = iota + 1
	// ActionUnchanged means that the version token was the same as at the last refresh.
	ActionUnchanged
	// ActionShared means that another process refreshed the view in a run that began after this run.
	ActionShared
	// ActionFailed means that the refresh failed. The view is as it was.
	ActionFailed
	// ActionBlocked means that a view which this one reads failed.
	ActionBlocked
)

// String returns the action in one word.
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

// RefreshReport is the result of one run, in dependency order. Callers that shared a run get the
// same report.
type RefreshReport struct {
	Views []ViewResult
	// Version is the token of this run.
	Version  string
	Duration time.Duration
}

// ViewResult is the result of one run for one view.
type ViewResult struct {
	View   string
	Action Action
	// Concurrent is true if the refresh did not block readers.
	Concurrent bool
	// Reason is why the refresh was not concurrent.
	Reason string
	// Duration is the time of this refresh, including the wait for the lock.
	Duration time.Duration
	// Err is why the refresh failed or was blocked.
	Err error
}

// run is one pass over the views, for all callers that wait for it.
type run struct {
	ctx     context.Context // with the values of the first caller; ends when the last caller has left
	cancel  context.CancelFunc
	names   map[string]bool
	waiters int
	done    chan struct{}
	report  RefreshReport
	err     error // the run did not get as far as the views
}

// Refresh brings the named views, and those that they read, up to date. No names means all views.
//
// Everything that was committed before the call is in the views when it returns. All calls that
// arrive during a refresh in this process share the next one. A view that fails does not stop views
// that do not read it. The error joins the failures of the views that this call asked for. When the
// context of the last caller of a run ends, the run is cancelled on the server.
func (r *Refresher) Refresh(ctx context.Context, names ...string) (RefreshReport, error) {
	if r.pool == nil { // the panic would be in a goroutine, where no caller can recover
		return RefreshReport{}, invalid("the Refresher is empty, must come from New or Open")
	}
	mine, err := r.closure(names)
	if err != nil {
		return RefreshReport{}, err
	}
	if err := ctx.Err(); err != nil {
		return RefreshReport{}, explain(err, "refresh")
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
	idle := r.current == q
	q.waiters++
	for n := range mine {
		q.names[n] = true
	}
	r.mu.Unlock()
	if idle {
		go r.loop(q)
	}

	select {
	case <-q.done:
	case <-ctx.Done():
		r.leave(q)
		return RefreshReport{}, explain(ctx.Err(), "refresh")
	}
	if q.err != nil {
		return q.report, q.err
	}
	return q.report, q.report.errorOf(mine)
}

// errorOf joins the failures of some of the views.
func (rep RefreshReport) errorOf(views map[string]bool) error {
	var errs []error
	for _, v := range rep.Views {
		if v.Err != nil && views[v.View] {
			errs = append(errs, &contextError{"refresh " + v.View, v.Err})
		}
	}
	return errors.Join(errs...)
}

// leave takes a caller whose context is done out of a run. The last one cancels the run, and waits
// for its end, so that nothing of it is under way when the caller closes the pool.
func (r *Refresher) leave(q *run) {
	r.mu.Lock()
	q.waiters--
	last, waiting := q.waiters == 0, r.next == q
	if last {
		q.cancel()
		if waiting {
			r.next = nil
		}
	}
	r.mu.Unlock()
	if !last || waiting {
		return
	}
	<-q.done
	if err := errors.Join(q.err, q.report.errorOf(q.names)); err != nil && !errors.Is(err, context.Canceled) {
		r.cfg.Logger.Error("matview: a refresh failed after its callers had left", "error", err)
	}
}

// loop does one run after the other until no caller waits.
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

// start is the moment at which a run began.
type start struct {
	at  time.Time // by the server's clock
	xid string    // by a transaction id of its own
}

// do is one pass.
//
// Its token and its start are read once, before the first view. A token that was read later, for a
// view that is built on another, could be newer than the contents of that other view, and the next
// pass would call the upper one unchanged forever.
func (r *Refresher) do(q *run) (RefreshReport, error) {
	begun := time.Now()
	var s start
	err := beginOn(q.ctx, r.pool, ownTx, func(tx pgx.Tx) error {
		return tx.QueryRow(q.ctx, startedSQL).Scan(&s.at, &s.xid)
	})
	if err != nil {
		return RefreshReport{}, explain(pgschema.NameStandby(q.ctx, r.pool, err), "refresh")
	}
	var rep RefreshReport
	if r.cfg.Changed != nil {
		if rep.Version, err = r.cfg.Changed(q.ctx); err != nil {
			return RefreshReport{}, &contextError{"refresh: Config.Changed", err}
		}
	}
	failed := map[string]bool{}
	for _, v := range r.views {
		if !q.names[v.Name] {
			continue
		}
		viewBegun := time.Now()
		res := ViewResult{View: v.Name}
		for _, d := range r.deps[v.Name] {
			if failed[d] {
				res.Action, res.Err = ActionBlocked, fmt.Errorf("%w: %s", ErrBlocked, d)
			}
		}
		if res.Err == nil {
			if err := r.one(q.ctx, v, s, rep.Version, &res); err != nil {
				res.Action, res.Err = ActionFailed, r.withGrants(q.ctx, v, err)
			}
		}
		failed[v.Name] = res.Err != nil
		res.Duration = time.Since(viewBegun)
		rep.Views = append(rep.Views, res)
	}
	rep.Duration = time.Since(begun)
	return rep, nil
}

const lockViewSQL = `SELECT pg_advisory_xact_lock(hashtextextended('headrace/matview/' || to_regclass($1)::oid, 0))`

// viewState is what the catalogue and the state table hold about a view.
type viewState struct {
	OID       *uint32
	Populated bool
	Shared    bool // a run that began later has refreshed it
	SameToken bool
	Indexed   bool // it can be refreshed concurrently
}

// one refreshes one view in a transaction of its own, or finds that there is no need to.
func (r *Refresher) one(ctx context.Context, v View, s start, version string, res *ViewResult) error {
	return r.begin(ctx, func(tx pgx.Tx) error {
		// One process at a time, until the transaction ends: a session lock would stay with
		// PgBouncer's server connection.
		if _, err := tx.Exec(ctx, lockViewSQL, v.ident()); err != nil {
			return fmt.Errorf("wait for another process that refreshes it: %w", err)
		}
		// A statement of its own: its snapshot is taken after the lock, so it sees what the process
		// before has committed.
		rows, err := tx.Query(ctx, pgschema.Fill(refreshStateSQL, "state", r.state), v.ident(), v.Name, s.xid, version)
		if err != nil {
			return fmt.Errorf("read its state: %w", err)
		}
		have, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[viewState])
		if err != nil {
			return fmt.Errorf("read its state: %w", err)
		}
		switch {
		case have.OID == nil:
			return fmt.Errorf("%w: the view was dropped; New creates it", ErrMissing)
		case have.Populated && have.Shared:
			res.Action = ActionShared
			return nil
		case have.Populated && have.SameToken && r.cfg.Changed != nil:
			res.Action = ActionUnchanged
			_, err := tx.Exec(ctx, pgschema.Fill(refreshUnchangedSQL, "state", r.state), v.Name, s.at, s.xid)
			return err
		case !have.Populated:
			res.Reason = "it was not populated yet"
		case !have.Indexed:
			res.Reason = "it has no unique index on plain columns"
		default:
			res.Concurrent = true
		}
		return r.refresh(ctx, tx, v, *have.OID, s, version, res)
	})
}

// refresh runs REFRESH and records it, in one transaction: a recorded token is never newer than the
// view.
func (r *Refresher) refresh(ctx context.Context, tx pgx.Tx, v View, oid uint32, s start, version string, res *ViewResult) error {
	concurrently := ""
	if res.Concurrent {
		concurrently = "CONCURRENTLY "
	}
	begun := time.Now()
	if _, err := tx.Exec(ctx, "REFRESH MATERIALIZED VIEW "+concurrently+v.ident()); err != nil {
		return err
	}
	if !r.cfg.SkipAnalyze {
		if _, err := tx.Exec(ctx, "ANALYZE "+v.ident()); err != nil {
			return err
		}
	}
	res.Action = ActionRefreshed
	_, err := tx.Exec(ctx, pgschema.Fill(refreshRecordSQL, "state", r.state), v.Name, oid, version, s.at, s.xid, time.Since(begun))
	return err
}
