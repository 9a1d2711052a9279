package staging

import (
	"context"
	"regexp"
	"slices"

	"github.com/jackc/pgx/v5"
)

var (
	createPattern = regexp.MustCompile(`(?ms)^CREATE (?:UNLOGGED )?TABLE IF NOT EXISTS \{(\w+)\} \(\n(.*?)^\)`)
	columnPattern = regexp.MustCompile(`(?m)^ +(\w+) +(\w+)`)
)

// checkCompanions returns an error for a table that has the name of a companion table and belongs
// to another program: promotions would fail on it, or truncate it. checkLayout has found older
// versions of this one before.
func (t *table) checkCompanions(ctx context.Context, q *pgx.Conn) error {
	var tables, columns, types []string
	add := func(template string, names pieces) {
		for _, m := range createPattern.FindAllStringSubmatch(templates[template], -1) {
			for _, c := range columnPattern.FindAllStringSubmatch(m[2], -1) {
				tables, columns, types = append(tables, names[m[1]]), append(columns, c[1]), append(types, c[2])
			}
		}
	}
	add("schema_target", pieces{"ledger": t.ledger, "rejects": t.rejects, "reject_counts": t.rejectCounts, "control": t.control, "epoch": t.epoch})
	for s := range t.staging {
		add("schema_side", pieces{"registry": t.registry[s], "staging": t.staging[s], "refused": t.refused[s]})
	}
	lists := pieces{"tables": textArray(tables), "columns": textArray(columns), "types": textArray(types)}
	r, err := sendOne(ctx, q, fill("strange_companions", lists).with(nil))
	if err != nil {
		return t.explain("reading the companion tables of "+t.target, err)
	}
	drift := &DriftError{}
	for row := range r.each() {
		if len(drift.Drifts) > 0 && drift.Table != row.text("name") {
			break // one table an error
		}
		drift.Table = row.text("name")
		drift.Drifts = append(drift.Drifts, Drift{Column: row.text("col"), Expected: row.text("type")})
	}
	if len(drift.Drifts) == 0 {
		return nil
	}
	back := "add it again as SQL returns it"
	if slices.Contains(slices.Concat(t.registry, t.staging, t.refused, []string{t.epoch}), drift.Table) {
		back = "drop the table, and start the program again: New creates it, and the queue delivers what was staged"
	}
	drift.Fix = "it has the name of a companion table of " + t.target + ": if it belongs to another program, rename it or the target; if a column was removed by hand, " + back
	return drift
}
