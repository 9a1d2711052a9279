package matview

import (
	"context"
	_ "embed"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/headrace/headrace/internal/pgschema"
)

// checkExpressions refuses what is no expression: "DISTINCT v" counts the distinct values of each
// promotion, and adds them up.
func (r Rollup) checkExpressions(ctx context.Context, tx pgx.Tx) error {
	for i, m := range r.Measures {
		if m.Expr == "" {
			continue
		}
		_, err := tx.Conn().PgConn().Prepare(ctx, "", "SELECT ("+m.Expr+") FROM "+ident(r.From)+" AS promoted", nil)
		if strings.HasPrefix(sqlState(err), "42") {
			return invalid("Rollup.Measures[%d].Expr (column %s) is %s, must be an expression over the columns of a row: %w", i, m.Name, m.Expr, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

//go:embed rollup_domains.sql
var domainsSQL string

// checkDomains refuses a domain with a constraint for a sum, an average or a count. What one
// promotion adds is a value of that type before it is added, and the constraint may hold for the
// sum alone: a change is negative where rows are replaced. Each promotion of such a change would
// fail.
func (r Rollup) checkDomains(ctx context.Context, tx pgx.Tx) error {
	var types, nulls []string
	var added []int
	for i, m := range r.Measures {
		if m.Aggregate == AggregateSum || m.Aggregate == AggregateAverage || m.Aggregate == AggregateCount {
			column := fmt.Sprintf("t%d", i)
			types, nulls, added = append(types, "pg_typeof("+column+")"), append(nulls, "NULL::"+m.sqlType()+" AS "+column), append(added, i)
		}
	}
	if len(added) == 0 {
		return nil
	}
	var found []int
	if err := tx.QueryRow(ctx, pgschema.Fill(domainsSQL, "types", join(types), "nulls", join(nulls))).Scan(&found); err != nil {
		return err
	}
	if len(found) == 0 {
		return nil
	}
	i := added[found[0]-1]
	m := r.Measures[i]
	return invalid("Rollup.Measures[%d].Type (column %s) is %s, a domain with a constraint: it would be checked for what each promotion adds too; "+
		"take its base type", i, m.Name, m.Type)
}

// checkExact refuses a measure that would be rounded: the sum of what each promotion rounded is not
// the rounded sum, and the sum of floating-point numbers depends on the order in which they are
// added.
func (r Rollup) checkExact(ctx context.Context, tx pgx.Tx) error {
	var exprs, sums, types []string
	var summed []int
	for i, m := range r.Measures {
		types = append(types, "NULL::"+m.sqlType())
		if m.Aggregate == AggregateSum || m.Aggregate == AggregateAverage {
			exprs, sums, summed = append(exprs, "("+m.Expr+")"), append(sums, aggregate(m.sqlType(), "sum")+"("+m.Expr+")"), append(summed, i)
		}
	}
	stored, err := describe(ctx, tx, "SELECT "+join(types))
	if err != nil {
		return err
	}
	for i, m := range r.Measures {
		if m.Aggregate == AggregateCount && !holdsIntegers(stored[i]) {
			return invalid("Rollup.Measures[%d].Type (column %s) is %s, must be exact for a count: bigint, another integer type or numeric",
				i, m.Name, m.Type)
		}
	}
	if len(summed) == 0 {
		return nil
	}
	from := " FROM " + ident(r.From) + " AS promoted"
	values, err := describe(ctx, tx, "SELECT "+strings.Join(exprs, ", ")+from)
	if err != nil {
		return err
	}
	totals, err := describe(ctx, tx, "SELECT "+strings.Join(sums, ", ")+from)
	if err != nil {
		return err
	}
	for k, i := range summed {
		m := r.Measures[i]
		if isFloat(values[k]) {
			return invalid("Rollup.Measures[%d].Expr (column %s) is of type %s, must be exact for a sum: write (%s)::numeric",
				i, m.Name, values[k].typ, m.Expr)
		}
		if fix := exactSum(values[k], totals[k], stored[i]); fix != "" {
			return invalid("Rollup.Measures[%d].Type (column %s) is %s, must hold every sum of %s exactly: "+
				"take %s and round when you read, or round each row in Expr",
				i, m.Name, stored[i].typ, values[k].typ, fix)
		}
	}
	return nil
}

// exactSum returns "" if a column of type stored holds every sum of the values without rounding,
// and otherwise a type that does. A sum that is too large for the type is an error of the
// promotion, not a wrong value.
func exactSum(value, total, stored field) (fix string) {
	switch {
	case isInteger(value), isNumeric(value) && value.modifier >= 0 && scale(value) <= 0:
		if isInteger(stored) || isNumeric(stored) && (stored.modifier < 0 || scale(stored) >= min(0, scaleOf(value))) {
			return ""
		}
		return "numeric"
	case isNumeric(value):
		if isNumeric(stored) && (stored.modifier < 0 || value.modifier >= 0 && scale(stored) >= scale(value)) {
			return ""
		}
		if value.modifier >= 0 {
			return fmt.Sprintf("numeric, or numeric with at least %d decimals", scale(value))
		}
		return "numeric"
	case stored.oid == total.oid && (stored.modifier < 0 || stored.modifier == value.modifier): // interval, money, types of the user's own
		return ""
	default:
		return total.typ
	}
}

// holdsIntegers is true for a type that rounds no integer.
func holdsIntegers(f field) bool {
	return isInteger(f) || isNumeric(f) && (f.modifier < 0 || scale(f) >= 0)
}

func isInteger(f field) bool {
	return f.oid == pgtype.Int2OID || f.oid == pgtype.Int4OID || f.oid == pgtype.Int8OID
}

func isFloat(f field) bool   { return f.oid == pgtype.Float4OID || f.oid == pgtype.Float8OID }
func isNumeric(f field) bool { return f.oid == pgtype.NumericOID }

// scale is the number of decimals of a numeric with a modifier: its lower 11 bits, signed. The
// modifier counts from 4.
func scale(f field) int32 { return ((f.modifier-4)&0x7ff ^ 1024) - 1024 }

// scaleOf is the scale of an integer too.
func scaleOf(f field) int32 {
	if isInteger(f) {
		return 0
	}
	return scale(f)
}

// integerTypes are the types of integers, with the smallest number of each.
var integerTypes = map[string]string{
	"smallint": "-32768", "int2": "-32768", "integer": "-2147483648", "int": "-2147483648", "int4": "-2147483648",
	"bigint": "-9223372036854775808", "int8": "-9223372036854775808",
}

// limitedNumeric has the precision and the scale.
var limitedNumeric = regexp.MustCompile(`^(?:numeric|decimal|dec)\s*\(\s*(\d+)\s*(?:,\s*([+-]?\d+)\s*)?\)$`)

// fits is the condition that the change of a sum fits into a column of the type: from -900 to 900
// is 1800, which numeric(5,2) does not hold. It is "" for a type of which no limit is known.
func fits(change, typ string) string {
	typ = strings.TrimSpace(strings.TrimPrefix(strings.ToLower(strings.TrimSpace(typ)), "pg_catalog."))
	change = "(" + change + ")::numeric"
	if smallest, ok := integerTypes[typ]; ok {
		return fmt.Sprintf("%[1]s BETWEEN '%[2]s'::numeric AND -1::numeric - '%[2]s'::numeric", change, smallest)
	}
	m := limitedNumeric.FindStringSubmatch(typ)
	if m == nil {
		return ""
	}
	precision, err := strconv.Atoi(m[1])
	decimals, _ := strconv.Atoi(m[2]) // 0 if there are none
	if err != nil {
		return ""
	}
	return fmt.Sprintf("(%[1]s = 'NaN' OR abs(%[1]s) < 1e%[2]d)", change, precision-decimals)
}

// fitting is a change of a sum, or NULL if the column cannot hold it. Then the group is stale.
func fitting(change, typ string) string {
	if condition := fits(change, typ); condition != "" {
		return "CASE WHEN " + condition + " THEN " + change + " END"
	}
	return change
}
