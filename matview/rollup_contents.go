package matview

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/pgschema"
)

//go:embed rollup_contents.sql
var contentsSQL string

// checkContents refuses a roll-up that has rows while its table of distinct values has none, or the
// other way round. Each promotion writes both, so one of them was emptied, replaced by a new table,
// or restored without its rows. It reads one row of each, in one snapshot.
//
// An empty Rollup.From is accepted: its old rows may have been removed on purpose.
func (r Rollup) checkContents(ctx context.Context, tx pgx.Tx) error {
	if len(r.distinct()) == 0 {
		return nil
	}
	idents := []string{ident(r.Table)}
	var full, diffs []string
	claim := func(wrong, diff string) {
		full, diffs = append(full, "("+wrong+")"), append(diffs, diff)
	}
	groups := "EXISTS (SELECT FROM " + ident(r.Table) + ")"
	for _, v := range r.distinct() {
		column, table := pgschema.Quote(v.measure().Name), v.name().String()
		idents = append(idents, table)
		live := ""
		if r.Replaces { // a value without rows is deleted later
			live = " WHERE " + columnCount + " " + postgres("<>") + " 0::bigint"
		}
		values := "EXISTS (SELECT FROM " + table + live + ")"
		claim("EXISTS (SELECT FROM "+ident(r.Table)+" WHERE "+column+" "+postgres(">")+" 0::bigint) AND NOT "+values,
			fmt.Sprintf("column %s counts values, and table %s has none", column, table))
		claim("NOT "+groups+" AND "+values, fmt.Sprintf("it has no groups, and table %s has values of them", table))
	}
	var visible bool
	if err := tx.QueryRow(ctx, contentsSQL, idents).Scan(&visible); err != nil || !visible {
		return err
	}
	var wrong []bool
	if err := tx.QueryRow(ctx, "SELECT ARRAY["+strings.Join(full, ", ")+"]").Scan(&wrong); err != nil {
		return err
	}
	if !slices.Contains(wrong, true) {
		return nil
	}
	var found []string
	for i, w := range wrong {
		if w {
			found = append(found, diffs[i])
		}
	}
	return &DriftError{
		Object: "roll-up " + ident(r.Table), Differences: found,
		Fix: "a table was emptied, replaced or restored without its rows: call Rebuild, which recomputes the roll-up",
	}
}
