package staging

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// RetireLanes removes the lanes of a target after the first keep. From then on these take no new
// batches, promoters empty them, and RetireLanes drops the tables of each one that is empty. It
// returns the number of lanes that are left. While that is more than keep, let promoters run and
// call RetireLanes again. It waits for a promotion or a program that reads a lane, for at most
// [DefaultLockTimeout], and returns [ErrBusy] after that.
//
// Programs may run meanwhile and need no restart. A redelivered batch may be staged into another
// lane; it is promoted once. New with a greater [Config].Lanes uses retired lanes again, so deploy
// the smaller number first. RetireLanes also mends a target whose lane tables were dropped by hand.
// The role must own the tables.
func RetireLanes(ctx context.Context, pool *pgxpool.Pool, target string, keep int) (lanes int, err error) {
	if keep < 1 || keep > MaxLanes {
		return 0, fmt.Errorf("%w: RetireLanes keeps %d lanes, must be 1 to %d", ErrConfig, keep, MaxLanes)
	}
	t, err := companions(ctx, pool, target, nil)
	if err != nil {
		return 0, err
	}
	conn, err := acquire(ctx, pool)
	if err != nil {
		return 0, fmt.Errorf("staging: %w", err)
	}
	defer conn.Release()
	defer t.rollback(conn.Conn())
	if lanes, err = t.retire(ctx, conn.Conn(), keep); err != nil {
		return lanes, t.explain("taking lanes of "+target+" away", err)
	}
	return lanes, nil
}

// retire marks the lanes behind the first keep in the control table, and then drops the empty ones
// of them, the last first.
func (t *table) retire(ctx context.Context, q *pgx.Conn, keep int) (lanes int, err error) {
	control := func(name string, n int) statement { return fill(name, pieces{"control": t.control, "lanes": text(n)}) }
	if err := t.lockInstall(ctx, q); err != nil {
		return 0, err
	}
	res, err := send(ctx, q, control("retire_lanes", keep).with(nil), t.sql.readControl.with(nil))
	if err == nil {
		err = t.commit(ctx, q, "")
	}
	if err != nil {
		return 0, err
	}
	open, err := t.openSides(res[1])
	if err != nil {
		return 0, err
	}
	// A lane may have tables and no letter, or a letter and no tables.
	lanes = max(len(t.lane), len(open))
	for ; lanes > keep; lanes-- {
		dropped, err := t.dropLane(ctx, q, lanes-1, control("forget_lanes", lanes-1))
		if err != nil || !dropped {
			return lanes, err
		}
	}
	return lanes, nil
}

// dropLane drops the tables of a lane if it is empty.
func (t *table) dropLane(ctx context.Context, q *pgx.Conn, lane int, forget statement) (dropped bool, err error) {
	defer t.rollback(q)
	var tables, registries []string
	for _, of := range []string{"_registry_", "_staging_", "_refused_"} { // in the order of lock_side
		for _, s := range []side{side(2 * lane), side(2*lane + 1)} {
			name := t.name.With(of + s.String())
			r, err := t.inOwn(ctx, q, reads, missingTables.with(args{"schema": name.Schema, "names": namesText([]string{name.Table})}))
			switch {
			case err != nil:
				return false, err
			case len(r.Rows) > 0:
			case of == "_registry_":
				registries = append(registries, "EXISTS (SELECT FROM "+name.String()+")")
				fallthrough
			default:
				tables = append(tables, name.String())
			}
		}
	}
	locks, drop := []call{installLock}, ""
	if all := strings.Join(tables, ", "); all != "" {
		locks, drop = append(locks, do("LOCK TABLE "+all+" IN ACCESS EXCLUSIVE MODE")), "DROP TABLE "+all+"; "
	}
	full := do("SELECT " + strings.Join(append(registries, "false"), " OR ") + " AS full")
	res, err := t.inSlices(ctx, q, locks, []call{full}, func() error { return nil })
	if err != nil || res[0].row(0).bool("full") {
		return false, err
	}
	// In one message, for the reason that promotion.empty gives.
	return true, t.commit(ctx, q, drop+forget.text+"; ")
}
