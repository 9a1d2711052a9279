package staging

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// A lock that is waited for holds up everyone who comes later, also those who would not conflict
// with its holder: readers and workers would queue behind a promoter that waits for a backup. So a
// promoter waits for slices of a lockSlice, with pauses from firstPause to lastPause in between.
const (
	lockSlice  = 100 * time.Millisecond
	firstPause = 25 * time.Millisecond
	lastPause  = time.Second
)

// inSlices begins a promotion's transaction, takes locks, and runs calls. It returns the results of
// the calls. It waits for the locks in slices, up to Config.LockTimeout in all. Between two slices
// it has no lock at all, and calls between.
func (t *table) inSlices(ctx context.Context, q *pgx.Conn, locks, calls []call, between func() error) ([]result, error) {
	slice := min(lockSlice, t.cfg.LockTimeout)
	begin := append(t.beginPromotion(), ownLockTimeout.with(args{"lock_timeout": millis(slice)}))
	begin = append(append(begin, locks...), ownLockTimeout.with(args{"lock_timeout": millis(t.rowTimeout())}))
	pause := firstPause
	for deadline := time.Now().Add(t.cfg.LockTimeout); ; {
		res, err := send(ctx, q, append(begin[:len(begin):len(begin)], calls...)...)
		if err == nil {
			return res[len(begin):], nil
		}
		left := time.Until(deadline)
		if sqlState(err) != lockNotAvailable || left <= slice {
			return nil, err
		}
		t.rollback(q)
		if err := between(); err != nil {
			return nil, err
		}
		timer := time.NewTimer(min(pause, left-slice))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		pause = min(pause*2, lastPause)
	}
}

// holdersQuery lists the processes that hold locks on the tables $1, and reports whether this role
// may end them.
const holdersQuery = `SELECT DISTINCT l.pid, coalesce(a.usename::text, '') AS role,
		coalesce(pg_has_role(a.usesysid, 'USAGE'), false) OR pg_has_role('pg_signal_backend', 'USAGE') AS mine, current_user::text AS me
	FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
	WHERE l.locktype = 'relation' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND l.pid <> pg_backend_pid() AND l.relation = ANY($1::text[]::regclass[]::oid[])
	ORDER BY l.pid`

// busy completes the error of a promotion that could not acquire its lock: it names the processes
// that hold it, such as a backup, which keeps its locks until it ends, or a worker of another role,
// which this role can neither see nor end.
func (t *table) busy(ctx context.Context, err error) error {
	doing := "promoting into " + t.target
	c, aerr := acquire(ctx, t.pool)
	if aerr != nil {
		return t.explain(doing, err)
	}
	defer c.Release()
	r, qerr := t.inOwn(ctx, c.Conn(), reads, do(holdersQuery, namesText(slices.Concat(t.registry, t.staging, t.refused))))
	if qerr != nil || len(r.Rows) == 0 {
		return t.explain(doing, err)
	}
	holders, fix := "", ""
	for row := range r.each() {
		if holders != "" {
			holders += ", "
		}
		holders += fmt.Sprintf("process %s of role %q", row.text("pid"), row.text("role"))
		if !row.bool("mine") {
			fix = fmt.Sprintf("; GRANT pg_read_all_stats, pg_signal_backend TO %s lets this program disconnect a worker whose COPY makes no progress",
				quote(row.text("me")))
		}
	}
	return fmt.Errorf("%w: %s: the staging tables are held by %s%s: %w", ErrBusy, doing, holders, fix, err)
}
