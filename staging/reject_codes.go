package staging

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A CodeCount is how many rejects of one code the rejects table holds.
type CodeCount struct {
	Code     string
	Open     int64 // to be corrected or abandoned
	Resolved int64 // and not pruned yet
}

// mostCounts is how many rows the table of counts has at most before a promotion joins them.
const mostCounts = 200

// CodeCounts counts the rejects by code, in the order of the codes. It reads a small table of
// counts, however many rejects there are. Every call of this package that writes rejects changes
// the counts in the same transaction, so they are exact after a crash too. A statement of your own
// that changes the rejects table is not counted.
func (t *table) CodeCounts(ctx context.Context) ([]CodeCount, error) {
	rows, err := t.query(ctx, t.sql.rejectCounts.with(nil))
	if err == nil {
		var out []CodeCount
		if out, err = pgx.CollectRows(rows, pgx.RowToStructByName[CodeCount]); err == nil {
			return out, nil
		}
	}
	return nil, t.explain("counting rejects", err)
}

// companions makes a Table that knows the companion tables of a target, and not the target's
// columns. read, if not nil, reads more before the statements are prepared.
func companions(ctx context.Context, pool *pgxpool.Pool, target string, read func(*table, *pgx.Conn) error) (*table, error) {
	if pool == nil {
		return nil, fmt.Errorf("%w: pool is nil, must be a *pgxpool.Pool", ErrConfig)
	}
	name, err := parseName(target)
	if err != nil {
		return nil, err
	}
	t := &table{pool: pool}
	if err := check(&t.cfg); err != nil {
		return nil, err
	}
	if err := t.readCompanions(ctx, name, target, read); err != nil {
		return nil, err
	}
	t.prepare()
	return t, nil
}

func (t *table) readCompanions(ctx context.Context, name pgschema.Name, target string, read func(*table, *pgx.Conn) error) error {
	if err := t.refuseShadowsOnPool(ctx); err != nil {
		return err
	}
	conn, err := t.begin(ctx, reads)
	if err != nil {
		return t.explain("looking for the target "+target, err)
	}
	defer conn.Release()
	defer t.rollback(conn.Conn())
	s, err := find(ctx, conn.Conn(), name)
	if err != nil {
		return t.explain("looking for the target "+target, err)
	}
	if s == nil {
		return fmt.Errorf("%w: %s", ErrNoTarget, target)
	}
	if err := t.readLanes(ctx, conn.Conn(), s.name); err != nil {
		return err
	}
	if read != nil {
		return read(t, conn.Conn())
	}
	return nil
}
