package matview

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// checkExact refuses a measure that would be rounded: the sum of what each promotion rounded is not
// the rounded sum, and the sum of floating-point numbers depends on the order in which they are
// added.
func (r Rollup) checkExact(ctx context.Context, tx pgx.Tx) error {
	var exprs, sums, types []string
	var summed []int
	for i, m := range r.Measures {
		types = append(types, "NULL::"+m.sqlType())
		if m.Aggregate == AggregateSum || m.Aggregate == AggregateAverage {
			exprs, sums, summed = append(exprs, "("+m.Expr+")"), append(sums, "sum("+m.Expr+")"), append(summed, i)
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
