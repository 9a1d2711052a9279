package matview

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// DefaultDifferences is how many differences [Rollup.Check] returns if it is not told.
const DefaultDifferences = 100

// Difference is one group in which roll-up and recomputation differ. The values are as Postgres prints them, NULL as "NULL".
type Difference struct {
	// Group has the values of the key columns.
	Group []string
	// Have has the roll-up's measures, nil if it lacks the group.
	Have []string
	// Want has the recomputed measures, nil if the group should not exist.
	Want []string
}

// String reads like `(2026-01-01, Books): have (3, 29.97), want (4, 39.96)`.
func (d Difference) String() string {
	list := func(v []string) string {
		if v == nil {
			return "none"
		}
		return "(" + strings.Join(v, ", ") + ")"
	}
	return fmt.Sprintf("(%s): have %s, want %s", strings.Join(d.Group, ", "), list(d.Have), list(d.Want))
}

// Rebuild recomputes the roll-up from a table (the promotion's target) and returns how many groups it had to change.
// Promotions wait for it, readers do not. It costs an aggregation over the whole table; what is right already is not rewritten.
func (r Rollup) Rebuild(ctx context.Context, db DB, from string) (changed int64, err error) {
	if err := r.checkFrom(from); err != nil {
		return 0, err
	}
	table, keys, measures := mustIdent(r.Table), r.keys(), r.measures()
	set, same, have := make([]string, len(measures)), make([]string, len(keys)), make([]string, len(measures))
	for i, m := range measures {
		set[i], have[i] = m+" = excluded."+m, "r."+m
	}
	for i, k := range keys {
		same[i] = "r." + k + " IS NOT DISTINCT FROM gone." + k
	}
	// EXCEPT first: it hashes, and takes two NULLs for equal. A join on IS NOT DISTINCT FROM does not hash, but joins only what is gone.
	sql := "WITH fresh AS MATERIALIZED (" + r.sel(mustIdent(from)) + "), " +
		"gone AS (SELECT " + strings.Join(keys, ", ") + " FROM " + table + " EXCEPT SELECT " + strings.Join(keys, ", ") + " FROM fresh), " +
		"deleted AS (DELETE FROM " + table + " AS r USING gone WHERE " + strings.Join(same, " AND ") + " RETURNING 1), " +
		"written AS (" + r.upsert("SELECT "+strings.Join(append(slices.Clone(keys), measures...), ", ")+" FROM fresh", set,
		" WHERE ("+strings.Join(have, ", ")+") IS DISTINCT FROM (excluded."+strings.Join(measures, ", excluded.")+")") + " RETURNING 1) " +
		"SELECT (SELECT count(*) FROM deleted) + (SELECT count(*) FROM written)"
	err = r.tx(ctx, db, "rebuild", func(tx pgx.Tx) error {
		// A promotion that has merged already is waited for; its rows are in the snapshot that the next statement takes. One that has not
		// waits for us, and neither its rows nor its merge are in that snapshot.
		if _, err := tx.Exec(ctx, "LOCK TABLE "+table+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sql).Scan(&changed)
	})
	return changed, err
}

// Check compares the roll-up with a recomputation from a table, in one snapshot. No differences means that they are
// equal; otherwise it returns the first of them in the order of the key, at most limit (0: [DefaultDifferences]).
func (r Rollup) Check(ctx context.Context, db DB, from string, limit int) ([]Difference, error) {
	if err := r.checkFrom(from); err != nil {
		return nil, err
	}
	if limit == 0 {
		limit = DefaultDifferences
	}
	if limit < 0 || limit > 1_000_000 {
		return nil, fmt.Errorf("matview: check roll-up %s: limit is %d: must be 0 to 1000000", r.Table, limit)
	}
	keys, cols := r.keys(), append(r.keys(), r.measures()...)
	text := make([]string, len(cols))
	for i, c := range cols {
		text[i] = "coalesce(" + c + "::text, 'NULL')"
	}
	list := strings.Join(cols, ", ")
	// One statement is one snapshot. A group that differs gives one row or two; one more than two for each tells the last one whole.
	sql := "WITH have AS MATERIALIZED (SELECT " + list + " FROM " + mustIdent(r.Table) + "), want AS MATERIALIZED (" + r.sel(mustIdent(from)) + "), " +
		"d AS (SELECT true AS headrace_have, h.* FROM (SELECT " + list + " FROM have EXCEPT ALL SELECT " + list + " FROM want) h " +
		"UNION ALL SELECT false, w.* FROM (SELECT " + list + " FROM want EXCEPT ALL SELECT " + list + " FROM have) w) " +
		"SELECT headrace_have, ARRAY[" + strings.Join(text, ", ") + "] FROM d ORDER BY " + strings.Join(keys, ", ") + ", headrace_have LIMIT " + fmt.Sprint(2*limit+1)
	rows, err := db.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("matview: check roll-up %s: %w", r.Table, err)
	}
	var (
		out   []Difference
		have  bool
		value []string
	)
	_, err = pgx.ForEachRow(rows, []any{&have, &value}, func() error {
		group, measures := slices.Clone(value[:len(keys)]), slices.Clone(value[len(keys):])
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
	if err != nil {
		return nil, fmt.Errorf("matview: check roll-up %s: %w", r.Table, err)
	}
	return out[:min(len(out), limit)], nil
}

func (r Rollup) checkFrom(from string) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if _, err := parseName(from); err != nil {
		return fmt.Errorf("matview: roll-up %s: from: %w", r.Table, err)
	}
	return nil
}
