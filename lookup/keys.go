package lookup

import (
	"context"
	_ "embed"
	"fmt"
	"reflect"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"
)

//go:embed keys.sql
var keysSQL string

// normalize gives a key that was read as a string the form in which equal keys of its type are
// equal strings.
func normalize(key reflect.Value, oid uint32) {
	if key.Kind() != reflect.String {
		return
	}
	switch oid {
	case pgtype.BPCharOID:
		key.SetString(strings.TrimRight(key.String(), " ")) // trailing spaces do not count in char(n)
	case pgtype.NumericOID:
		key.SetString(trimScale(key.String()))
	}
}

// trimScale removes the trailing zeros of a fraction: 1.50 and 1.5 are one number.
func trimScale(number string) string {
	if !strings.Contains(number, ".") {
		return number
	}
	return strings.TrimSuffix(strings.TrimRight(number, "0"), ".")
}

// keyColumn is a column that is, or is part of, a key.
type keyColumn struct {
	name      string
	typeOID   uint32
	tableOID  uint32 // 0 for an expression
	attribute uint16 // its number in the table
}

// keyColumns returns the key columns of a query's result whose comparison must be checked.
func (r *row) keyColumns() (columns []keyColumn) {
	for i, to := range r.into {
		if c := r.columns[i]; to.isKey && comparesText(c.DataTypeOID) {
			columns = append(columns, keyColumn{c.Name, c.DataTypeOID, c.TableOID, c.TableAttributeNumber})
		}
	}
	return columns
}

// firstUserOID is where the types begin that PostgreSQL does not bring along.
const firstUserOID = 16384

// comparesText reports whether values of a type may be equal that differ as bytes, by the type or
// by a collation.
func comparesText(oid uint32) bool {
	switch oid {
	case pgtype.TextOID, pgtype.VarcharOID, pgtype.BPCharOID:
		return true
	}
	return oid >= firstUserOID
}

// checkKeys returns an error if the source compares a key without regard to case: Go's maps do not.
func checkKeys(ctx context.Context, db Querier, columns []keyColumn) error {
	for _, c := range columns {
		why, err := foldsCase(ctx, db, c)
		if err != nil {
			return fmt.Errorf("key column %s: %w", c.name, err)
		}
		if why != "" {
			return fmt.Errorf("%w: query: key column %s has %s, must compare exactly: select lower(%s), and look up keys in lower case",
				ErrConfig, c.name, why, c.name)
		}
	}
	return nil
}

// foldsCase returns the type or the collation of a column if it compares without regard to case.
func foldsCase(ctx context.Context, db Querier, c keyColumn) (why string, err error) {
	rows, err := db.Query(ctx, keysSQL, c.typeOID, c.tableOID, int16(c.attribute))
	if err != nil {
		return "", err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&why); err != nil {
			return "", err
		}
	}
	return why, rows.Err()
}
