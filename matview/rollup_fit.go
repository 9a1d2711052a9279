package matview

import (
	"context"
	_ "embed"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/pgschema"
)

var (
	//go:embed rollup_fit.sql
	fitSQL string
	//go:embed rollup_neighbors.sql
	neighborsSQL string
)

// checkFit refuses an existing table that would not hold what the merges write: a trigger may drop
// it, and a crash empties an UNLOGGED table and leaves the target.
func (r Rollup) checkFit(ctx context.Context, tx pgx.Tx, p part) error {
	var unlogged bool
	if err := tx.QueryRow(ctx, `SELECT relpersistence = 'u' FROM pg_class WHERE oid = to_regclass($1)`, ident(r.From)).Scan(&unlogged); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, fitSQL, p.table.ident, unlogged)
	if err != nil {
		return err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(found) == 0 {
		return err
	}
	return &DriftError{Object: p.String(), Differences: found, Fix: "as its owner, drop the trigger or run ALTER TABLE … SET LOGGED, then call Rebuild"}
}

// checkPublished refuses a table of which a publication keeps Postgres from updating a row. Since
// PostgreSQL 18 one that leaves out generated columns does: those of averages and sketches belong
// to the replica identity, which is the whole row.
func (p part) checkPublished(ctx context.Context, tx pgx.Tx) error {
	const itself = "(SELECT to_regclass($1)::oid UNION SELECT x.relid::oid FROM pg_partition_tree(to_regclass($1)) x)"
	rows, err := tx.Query(ctx, pgschema.Unreplaceable(itself)+" ORDER BY 1", p.table.ident)
	if err != nil {
		return err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(found) == 0 {
		return err
	}
	return invalid("%s: %s", p, strings.Join(found, ", "))
}

// checkNeighbors refuses an existing table of distinct values that belongs to another roll-up too:
// measure "a_b" of roll-up "sales" and measure "b" of "sales_a" have tables of one name.
func (r Rollup) checkNeighbors(ctx context.Context, tx pgx.Tx, p part) error {
	rows, err := tx.Query(ctx, neighborsSQL, p.table.ident, ident(r.Table), definitionPrefix)
	if err != nil {
		return err
	}
	var table, comment string
	_, err = pgx.ForEachRow(rows, []any{&table, &comment}, func() error {
		d, _ := recorded(comment)
		for column, expr := range d.Columns {
			if strings.HasPrefix(expr, aggregateNames[AggregateDistinct]+"(") && pgschema.Derived(table, "_"+column) == p.name.Table {
				return invalid("Rollup.Table is %s, and its table %s is that of column %s of roll-up %s: take another name for one of them",
					r.Table, p.name, pgschema.Quote(column), pgschema.Quote(table))
			}
		}
		return nil
	})
	return err
}

// checkSource refuses a source that no promotion writes to.
func (r Rollup) checkSource(o object) error {
	if o.Kind != "r" && o.Kind != "p" {
		return invalid("Rollup.From is %s, must be a table that promotions write to: it is another kind of object (pg_class.relkind %s)", r.From, o.Kind)
	}
	if _, ok := recorded(o.Comment); ok {
		return invalid("Rollup.From is %s, must be the table that promotions write to: it is a roll-up, and its rows come from merges. "+
			"Aggregate its table again, or read it through a view", r.From)
	}
	return nil
}

// checkTogether refuses roll-ups that cannot be merged by one promotion: those of two tables, and
// those of which two would write into one table or have one name.
func checkTogether(rollups []Rollup) error {
	steps, tables := map[string]string{}, map[string]string{}
	claim := func(r Rollup, table string) error {
		if other, taken := tables[table]; taken {
			return invalid("Rollup.Table is %s, and its table %s is that of roll-up %s too: take another name for one of them", r.Table, table, other)
		}
		tables[table] = r.Table
		return nil
	}
	for _, r := range rollups {
		if from, first := mustParse(r.From), mustParse(rollups[0].From); from.Table != first.Table || from.Schema != first.Schema && from.Schema != "" && first.Schema != "" {
			return invalid("Rollup.From (roll-up %s) is %s, must be %s as that of roll-up %s: one promotion writes into one table",
				r.Table, r.From, rollups[0].From, rollups[0].Table)
		}
		if err := claim(r, ident(r.Table)); err != nil {
			return err
		}
		if other, taken := steps[r.name()]; taken {
			return invalid("Rollup.Name (roll-up %s) is %q, must differ from that of roll-up %s", r.Table, r.name(), other)
		}
		steps[r.name()] = r.Table
		for _, v := range r.distinct() {
			if err := claim(r, v.name().String()); err != nil {
				return err
			}
		}
	}
	return nil
}
