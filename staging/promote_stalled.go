package staging

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// stallQuery lists the workers that wait for their client in the middle of a COPY into the tables
// $1, with the bytes that Postgres has received.
const stallQuery = `SELECT a.pid, c.bytes_processed FROM pg_stat_activity a JOIN pg_stat_progress_copy c ON c.pid = a.pid
	WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.state = 'active' AND a.wait_event_type = 'Client'
		AND c.relid = ANY($1::text[]::regclass[]::oid[])`

// endStalled disconnects workers whose COPY into the staging tables is stalled: Postgres has no
// timeout for a client that stops in the middle of it. It is called when a promotion could not
// acquire its lock. It compares two samples that are StageTimeout apart, so a COPY that is long and
// moves is left alone. A worker that is disconnected while it was only slow stages its batch again.
func (t *table) endStalled(ctx context.Context) (ended int, err error) {
	before, err := t.stalled(ctx)
	if err != nil || len(before) == 0 {
		return 0, err
	}
	timer := time.NewTimer(t.cfg.StageTimeout)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := t.stalled(ctx)
	if err != nil {
		return 0, err
	}
	for pid, bytes := range after {
		if old, ok := before[pid]; !ok || old != bytes {
			continue
		}
		var done bool
		if err := t.pool.QueryRow(ctx, "SELECT pg_terminate_backend($1::int4)", pgx.QueryExecModeExec, pid).Scan(&done); err != nil {
			if sqlState(err) == insufficientPrivilege { // a worker of another role: busy names it, and the GRANT that helps
				continue
			}
			return ended, err
		}
		if done {
			ended++
		}
	}
	return ended, nil
}

// stalled returns the workers that wait for their client in a COPY, and what they have copied.
func (t *table) stalled(ctx context.Context) (map[int32]int64, error) {
	rows, err := t.query(ctx, do(stallQuery, namesText(slices.Concat(t.staging, t.refused))))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[int32]int64{}
	for rows.Next() {
		var pid int32
		var bytes int64
		if err := rows.Scan(&pid, &bytes); err != nil {
			return nil, err
		}
		out[pid] = bytes
	}
	return out, rows.Err()
}
