package matview

import (
	"context"
	_ "embed"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/headrace/headrace/internal/pgschema"
)

//go:embed rollup_extreme.sql
var extremeSQL string

// firstUserOID is the first OID that Postgres gives to an object of a user.
const firstUserOID = 16384

// checkExtremes refuses a minimum or a maximum whose column is ordered otherwise than the
// expression. The aggregate orders the values of one promotion by the expression's type and
// collation, and the merge orders the results of two promotions by the column's.
func (r Rollup) checkExtremes(ctx context.Context, tx pgx.Tx) error {
	for i, m := range r.Measures {
		if m.Aggregate != AggregateMin && m.Aggregate != AggregateMax {
			continue
		}
		name := fmt.Sprintf("Rollup.Measures[%d]", i)
		extreme := m.function(map[Aggregate]string{AggregateMin: "min", AggregateMax: "max"}[m.Aggregate]) + "(" + m.Expr + ")"
		from := " FROM " + ident(r.From) + " AS promoted"
		var fields []field
		for _, query := range []string{"SELECT " + m.Expr + from, "SELECT " + extreme + from, "SELECT NULL::" + m.Type} {
			f, err := describe(ctx, tx, query)
			if err != nil {
				return &contextError{name, err}
			}
			fields = append(fields, f[0])
		}
		value, result, stored := fields[0], fields[1], fields[2]
		if value.oid >= firstUserOID && !isPostgres(m.Type) && result.oid != value.oid {
			return invalid("%s.Expr (column %s) is of type %s, whose %s is not found and that of %s would be taken: add the schema of %s to the search_path",
				name, m.Name, value.typ, extreme, result.typ, value.typ)
		}
		if value.oid >= firstUserOID && result.oid != value.oid || !ordersAs(result, value, stored) {
			return invalid("%s.Type (column %s) is %s, must order as %s does: write %s, or change Expr", name, m.Name, m.Type, value.typ, value.typ)
		}
		var collation, storedCollation string
		if err := tx.QueryRow(ctx, pgschema.Fill(extremeSQL, "expr", "("+m.Expr+")", "type", m.Type, "from", ident(r.From))).Scan(&collation, &storedCollation); err != nil {
			return &contextError{name, err}
		}
		if collation != storedCollation {
			return invalid("%s.Type (column %s) is %s, must order as the table does: write %s COLLATE %s, or change Expr",
				name, m.Name, m.Type, stored.typ, collation)
		}
	}
	return nil
}

// ordersAs is true for a column in which values keep the order that the aggregate finds. Rounding
// keeps it, and cutting off a text does not.
func ordersAs(result, value, stored field) bool {
	texts := []uint32{pgtype.TextOID, pgtype.VarcharOID}
	switch {
	case isNumber(result) && isNumber(stored):
		return true
	case slices.Contains(texts, result.oid) && slices.Contains(texts, stored.oid), result.oid == pgtype.BPCharOID && stored.oid == result.oid:
		return stored.modifier < 0 || stored.modifier == value.modifier
	case result.oid == pgtype.DateOID && stored.oid == pgtype.TimestampOID:
		return true
	default: // cidr has the maximum of inet
		return stored.oid == result.oid || stored.oid == value.oid
	}
}

func isNumber(f field) bool { return isInteger(f) || isFloat(f) || isNumeric(f) }
