// Package ops reads a pipeline by the names of its queue and its table, without its row type. It
// runs no DDL and needs no more than SELECT.
package ops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/staging"
)

// ErrNoTable reports that a database does not hold the tables of a pipeline: no worker has started
// yet.
var ErrNoTable = errors.New("ops: no such pipeline")

// Ledger reads what package staging keeps beside a table.
type Ledger struct {
	pipeline.Table[struct{}] // nil: only what the books need is implemented
	pool                     *pgxpool.Pool
	table                    string
	ledger, control          string // quoted
}

// OpenLedger finds the ledger of a table ("orders" or "shop.orders"). The error wraps ErrNoTable if
// there is none.
func OpenLedger(ctx context.Context, pool *pgxpool.Pool, table string) (*Ledger, error) {
	name, found, err := relation(ctx, pool, table+"_ledger")
	if err != nil {
		return nil, fmt.Errorf("ops: %w", err)
	}
	if !found {
		return nil, fmt.Errorf("%w: the database %s has no table %s", ErrNoTable, pool.Config().ConnConfig.Database, name)
	}
	control, _, err := relation(ctx, pool, table+"_control")
	if err != nil {
		return nil, fmt.Errorf("ops: %w", err)
	}
	return &Ledger{pool: pool, table: table, ledger: name, control: control}, nil
}

// Books sums the ledger over the batches committed since.
func (l *Ledger) Books(ctx context.Context, since time.Time) (b staging.Books, err error) {
	sql := "SELECT count(*) FILTER (WHERE kind = 'promoted'), count(*) FILTER (WHERE kind = 'void')"
	for _, column := range []string{"records", "kept", "duplicates", "filtered", "rejected", "staged", "promoted", "conflicts", "ruled"} {
		sql += ", coalesce(sum(" + column + ") FILTER (WHERE kind = 'promoted'), 0)::int8"
	}
	sql += ", (SELECT floor > '-infinity' FROM " + l.control + ")"
	err = l.pool.QueryRow(ctx, sql+" FROM "+l.ledger+" WHERE committed_at >= $1::timestamptz", since).Scan(&b.Batches, &b.Void,
		&b.Records, &b.Kept, &b.Duplicates, &b.Filtered, &b.Rejected, &b.Staged, &b.Rows, &b.Conflicts, &b.RejectedByRule, &b.Pruned)
	return b, err
}

// Clock returns the time of the server.
func (l *Ledger) Clock(ctx context.Context) (now time.Time, err error) {
	err = l.pool.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&now)
	return now, err
}

// StageCounts sums what the stages of the chain did with the records.
func (l *Ledger) StageCounts(ctx context.Context, since time.Time) ([]staging.StageCount, error) {
	return staging.StageCounts(ctx, l.pool, l.table, since)
}

// Fates returns FatePromoted or FateVoid for batches that are in the ledger, and FateUnknown for
// all others. It does not read the registries of staged batches.
func (l *Ledger) Fates(ctx context.Context, ids []string) ([]staging.Fate, error) {
	rows, err := l.pool.Query(ctx, "SELECT id::text, kind = 'void' FROM "+l.ledger+" WHERE id = ANY($1::uuid[])", ids)
	if err != nil {
		return nil, err
	}
	known := make(map[string]staging.Fate, len(ids))
	var id string
	var void bool
	if _, err := pgx.ForEachRow(rows, []any{&id, &void}, func() error {
		known[id] = staging.FatePromoted
		if void {
			known[id] = staging.FateVoid
		}
		return nil
	}); err != nil {
		return nil, err
	}
	fates := make([]staging.Fate, len(ids))
	for i, id := range ids {
		fates[i] = known[id]
	}
	return fates, nil
}
