package matview

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
)

var (
	//go:embed rollup_rebuild.sql
	rebuildSQL string
	//go:embed rollup_check.sql
	checkSQL string
)

// DefaultDifferences is the limit of [Rollup.Check] if its limit is 0.
const DefaultDifferences = 100

const maxDifferences = 1_000_000

// Difference is one group in which the roll-up and the recomputation differ. The values are as
// Postgres prints them, NULL as "NULL".
type Difference struct {
	// Group holds the values of the key columns.
	Group []string
	// Have holds the roll-up's measures, nil if it lacks the group.
	Have []string
	// Want holds the recomputed measures, nil if the group should not exist.
	Want []string
}

// String formats like `(2026-01-01, Books): have (3, 29.97), want (4, 39.96)`.
func (d Difference) String() string {
	list := func(v []string) string {
		if v == nil {
			return "none"
		}
		return "(" + strings.Join(v, ", ") + ")"
	}
	return fmt.Sprintf("(%s): have %s, want %s", strings.Join(d.Group, ", "), list(d.Have), list(d.Want))
}

// Rebuild recomputes the roll-up from Rollup.From and returns how many groups it had to change.
// Promotions wait for it, readers do not. It aggregates the whole table, and rewrites only the
// groups that differ. Inside the caller's transaction it needs READ COMMITTED.
func (r Rollup) Rebuild(ctx context.Context, db DB) (changed int64, err error) {
	if err := r.Validate(); err != nil {
		return 0, err
	}
	keys, measures := r.keys(""), r.measures("")
	set, sameKey := make([]string, len(measures)), make([]string, len(keys))
	for i, m := range measures {
		set[i] = m + " = excluded." + m
	}
	for i, k := range keys {
		sameKey[i] = "r." + k + " IS NOT DISTINCT FROM gone." + k
	}
	differs := "WHERE (" + strings.Join(r.measures("r."), ", ") + ") IS DISTINCT FROM (" + strings.Join(r.measures("excluded."), ", ") + ")"
	fresh := "SELECT " + strings.Join(append(keys, measures...), ", ") + " FROM fresh"
	sql := pgschema.Fill(rebuildSQL, "groups", r.groups(ident(r.From)+" AS promoted"), "rollup", ident(r.Table),
		"keys", strings.Join(r.keys(""), ", "),
		"same_key", strings.Join(sameKey, " AND "), "upsert", r.upsert(fresh, set, differs))
	err = r.tx(ctx, db, "rebuild", func(tx pgx.Tx) error {
		var isolation string
		if err := tx.QueryRow(ctx, `SELECT current_setting('transaction_isolation')`).Scan(&isolation); err != nil {
			return err
		}
		if isolation != "read committed" {
			return fmt.Errorf("the transaction is %s: Rebuild must see what was committed while it waited, so it needs READ COMMITTED",
				strings.ToUpper(isolation))
		}
		// It waits for a promotion that has merged already: the rows are in the snapshot that the
		// next statement takes. A promotion that has not merged yet waits for the lock: neither its
		// rows nor its merge are in that snapshot.
		if _, err := tx.Exec(ctx, "LOCK TABLE "+ident(r.Table)+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sql).Scan(&changed)
	})
	return changed, err
}

// Check compares the roll-up with a recomputation from Rollup.From, in one snapshot. No differences
// means that they are equal. Otherwise it returns the first differences in the order of the key, at
// most limit (0: [DefaultDifferences]).
func (r Rollup) Check(ctx context.Context, db DB, limit int) ([]Difference, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if limit < 0 || limit > maxDifferences {
		return nil, invalid("limit is %d, must be 0 to %d", limit, maxDifferences)
	}
	if limit == 0 {
		limit = DefaultDifferences
	}
	columns := append(r.keys(""), r.measures("")...)
	texts := make([]string, len(columns))
	for i, c := range columns {
		texts[i] = "coalesce(" + c + "::text, 'NULL')"
	}
	sql := pgschema.Fill(checkSQL, "columns", strings.Join(columns, ", "), "rollup", ident(r.Table),
		"groups", r.groups(ident(r.From)+" AS promoted"),
		"texts", strings.Join(texts, ", "), "keys", strings.Join(r.keys(""), ", "), "limit", fmt.Sprint(2*limit+1))
	var differences []Difference
	err := r.tx(ctx, db, "check", func(tx pgx.Tx) (err error) {
		differences, err = r.readDifferences(ctx, tx, sql)
		return err
	})
	return differences[:min(len(differences), limit)], err
}

// readDifferences joins the two rows of a group that both sides have.
func (r Rollup) readDifferences(ctx context.Context, tx pgx.Tx, sql string) (out []Difference, err error) {
	rows, err := tx.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	var (
		have   bool
		values []string
	)
	_, err = pgx.ForEachRow(rows, []any{&have, &values}, func() error {
		group, measures := slices.Clone(values[:len(r.GroupBy)]), slices.Clone(values[len(r.GroupBy):])
		if n := len(out); n == 0 || !slices.Equal(out[n-1].Group, group) {
			out = append(out, Difference{Group: group})
		}
		d := &out[len(out)-1]
		if have {
			d.Have = measures
		} else {
			d.Want = measures
		}
		return nil
	})
	return out, err
}

// rollupLockTimeout bounds the wait of Create and Rebuild for promotions under way.
const rollupLockTimeout = 30 * time.Second

// tx runs f in a transaction. A transaction of the caller's keeps its own settings.
func (r Rollup) tx(ctx context.Context, db DB, what string, f func(tx pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, callers := db.(pgx.Tx); !callers {
			if _, err := tx.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE`); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, pgschema.Settings, "0", pgschema.Millis(rollupLockTimeout), pgschema.Millis(idleTimeout)); err != nil {
				return err
			}
		}
		return f(tx)
	})
	return explain(err, "%s roll-up %s", what, r.Table)
}
