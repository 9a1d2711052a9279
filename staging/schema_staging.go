package staging

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
)

// checkStaging compares a staging table with the columns. A column that is new is added, with the
// target's default for older programs and for the rows that they have staged. A column whose type
// has become wider is changed with its values, by the statement that is returned: it may rewrite
// the UNLOGGED table, so it belongs into the message of the commit, for the reason that
// promotion.empty gives. Anything else waits until the table is empty.
func (t *table) checkStaging(ctx context.Context, q *pgx.Conn, s side) (widen string, err error) {
	found, err := find(ctx, q, pgschema.Name{Schema: t.name.Schema, Table: t.stagingName[s]})
	if err != nil {
		return "", t.explain("reading the shape of "+t.staging[s], err)
	}
	if found == nil {
		return "", fmt.Errorf("%w: %s", ErrNoTarget, t.staging[s])
	}
	if err := found.check(t.staging[s]); err != nil {
		return "", err
	}
	if err := found.load(ctx, q); err != nil {
		return "", t.explain("reading the shape of "+t.staging[s], err)
	}
	var drifts []Drift
	var change, wider []string
	for _, c := range t.cols {
		f := found.column(c.name)
		switch {
		case f == nil:
			change = append(change, "ADD COLUMN "+c.definition())
		case f.sqlType != c.sqlType && f.collate == c.collate && widens(f.sqlType, c.sqlType):
			wider = append(wider, "ALTER COLUMN "+quote(c.name)+" TYPE "+c.sqlType+c.collate)
			if f.def != c.def {
				wider = append(wider, "ALTER COLUMN "+quote(c.name)+" "+c.defaultChange())
			}
		case f.sqlType+f.collate != c.sqlType+c.collate:
			drifts = append(drifts, Drift{Column: c.name, Expected: c.sqlType + c.collate, Found: f.sqlType + f.collate})
			change = append(change, "DROP COLUMN "+quote(c.name), "ADD COLUMN "+c.definition())
		case f.def != c.def:
			change = append(change, "ALTER COLUMN "+quote(c.name)+" "+c.defaultChange())
		}
	}
	for _, f := range found.columns {
		if f.name != colRecord && !slices.Contains(t.colNames, f.name) {
			drifts = append(drifts, Drift{Column: f.name, Found: f.sqlType})
			change = append(change, "DROP COLUMN "+quote(f.name))
		}
	}
	if f := found.column(colRecord); f == nil || f.sqlType != "bigint" {
		return "", &DriftError{Table: t.staging[s], Drifts: []Drift{{Column: colRecord, Expected: "bigint"}}}
	}
	if len(change)+len(wider) == 0 || t.cfg.Role == RoleReader {
		return "", nil
	}
	if t.cfg.NoCreate {
		change = append(change, wider...)
		return "", &DriftError{Table: t.staging[s], Drifts: append(drifts, Drift{Column: "*", Expected: strings.Join(change, ", ")}),
			Fix: "Config.NoCreate is set: ALTER TABLE " + t.staging[s] + " " + strings.Join(change, ", ")}
	}
	if len(drifts) > 0 {
		names := pieces{"registry": t.registry[s], "staging": t.staging[s]}
		r, err := send(ctx, q, fill("lock_registry", names).with(nil), fill("registry_full", names).with(nil))
		if err != nil {
			return "", t.explain("locking "+t.staging[s], err)
		}
		if r[1].row(0).bool("full") {
			return "", &DriftError{Table: t.staging[s], Drifts: drifts,
				Fix: "promote what is staged with the version of the program that staged it, or let DiscardStaged give it back to the queue"}
		}
	}
	if len(wider) > 0 {
		widen = "ALTER TABLE " + t.staging[s] + " " + strings.Join(wider, ", ") + "; "
	}
	if len(change) == 0 {
		return widen, nil
	}
	if _, err := q.Exec(ctx, "ALTER TABLE "+t.staging[s]+" "+strings.Join(change, ", ")); err != nil {
		return "", t.explain("changing "+t.staging[s], err)
	}
	return widen, nil
}

// defaultChange gives a staging column the target's default.
func (c *column) defaultChange() string {
	if c.def == "" {
		return "DROP DEFAULT"
	}
	return "SET DEFAULT " + c.def
}

var (
	varcharPattern = regexp.MustCompile(`^character varying(?:\((\d+)\))?$`)
	numericPattern = regexp.MustCompile(`^numeric(?:\((\d+),(\d+)\))?$`)
	intWidth       = map[string]int{"smallint": 2, "integer": 4, "bigint": 8}
)

// widens is true if every value of one type, as format_type prints it, is the same value of the
// other one. Rows that are staged then stay as they are.
func widens(from, to string) bool {
	if a := intWidth[from]; a > 0 {
		return a < intWidth[to] || to == "numeric"
	}
	if a := varcharPattern.FindStringSubmatch(from); a != nil {
		b := varcharPattern.FindStringSubmatch(to)
		return to == "text" || b != nil && notLess(b[1], a[1])
	}
	if a := numericPattern.FindStringSubmatch(from); a != nil {
		b := numericPattern.FindStringSubmatch(to)
		return b != nil && notLess(b[1], a[1]) && (b[2] == "" || b[2] == a[2])
	}
	return false
}

// notLess compares two limits. An empty text means no limit.
func notLess(a, b string) bool {
	if a == "" || b == "" {
		return a == ""
	}
	x, xerr := strconv.Atoi(a)
	y, yerr := strconv.Atoi(b)
	return xerr == nil && yerr == nil && x >= y
}
