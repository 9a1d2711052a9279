package matview

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
)

//go:embed rollup_collation.sql
var collationSQL string

// grouping is how Postgres compares the values of an expression: as the table does, and as the
// roll-up's column does.
type grouping struct {
	Type            string // of the expression
	Foreign         bool   // its type is not Postgres' own
	Stored          string // the type of the roll-up's column
	Collation       string // of the expression
	Folds           bool   // that collation calls different texts equal
	StoredCollation string
	Equal           bool // the type's own operator "=" is found
}

// checkGrouping refuses a key, or a type of distinct values, that would not group as the table's
// own column does: with a collation that ignores case, each spelling would be a group of its own.
// Groups of replaced rows are found with the operator "=", which must be that of their type.
func (r Rollup) checkGrouping(ctx context.Context, tx pgx.Tx) error {
	check := func(field, column, expr, typ string, key bool) error {
		rows, err := tx.Query(ctx, pgschema.Fill(collationSQL, "expr", expr, "type", typ, "from", ident(r.From)))
		if err != nil {
			return &contextError{field, err}
		}
		g, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[grouping])
		if err != nil {
			return &contextError{field, err}
		}
		switch {
		case g.Foreign && g.Type != g.Stored:
			return invalid("%s.Type (column %s) is %s, must compare as %s does: write %s, or change Expr", field, column, typ, g.Type, g.Type)
		case g.Foreign && key && r.Replaces && !g.Equal:
			return invalid("%s.Type (column %s) is %s, whose operator = is not found and that of another type would be taken: add the schema of %s to the search_path",
				field, column, typ, g.Type)
		case g.Folds && g.Collation != g.StoredCollation:
			return invalid("%s.Type (column %s) is %s, must group as the table does: write %s COLLATE %s, or change Expr",
				field, column, typ, typ, g.Collation)
		}
		return nil
	}
	for i, c := range r.GroupBy {
		if err := check(fmt.Sprintf("Rollup.GroupBy[%d]", i), c.Name, c.expr(), c.Type, true); err != nil {
			return err
		}
	}
	for _, v := range r.distinct() {
		m := v.measure()
		if err := check(v.field(), m.Name, "("+m.Expr+")", m.Type, false); err != nil {
			return err
		}
	}
	return nil
}
