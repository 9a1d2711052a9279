package matview

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/pgschema"
)

// use is what a call does with a roll-up that exists.
type use uint8

const (
	compares use = iota
	fills        // if it is empty; a correct one is only compared
	repairs
)

// parts are the tables of the roll-up: its own one first.
func (r Rollup) parts() []part {
	out := []part{{what: "roll-up", name: mustParse(r.Table), table: r.table(), create: r.create(), nulls: r.nulls(), types: r.types()}}
	for _, v := range r.distinct() {
		out = append(out, v.parts()...)
	}
	return out
}

// checkUse lists what the role lacks. Privileges on single columns of the table that is aggregated
// may be enough. A table of distinct values that is missing is created by a call that writes.
func (r Rollup) checkUse(ctx context.Context, tx pgx.Tx, u use) error {
	tables := slices.Insert(r.parts(), 0, part{what: "table", name: mustParse(r.From)})
	var names []pgschema.Name
	for _, p := range tables {
		names = append(names, p.name)
	}
	objects, err := lookUp(ctx, tx, names)
	if err != nil {
		return err
	}
	n := needs{role: objects[0].Role}
	for i, o := range objects {
		p := tables[i]
		table := "TABLE " + p.name.String()
		switch schema := "SCHEMA " + pgschema.Quote(o.Schema); {
		case o.OID == 0 && o.Schema != "" && !o.SchemaUsage:
			n.privilege(false, "USAGE", schema)
		case o.OID == 0 && i > 1 && u != compares:
			n.privilege(o.SchemaCreate, "CREATE", schema)
		case o.OID == 0:
			n.missing = append(n.missing, p.String())
		case i == 0:
			n.privilege(o.MaySelect || u == compares && o.MayRead, "SELECT", table) // a fill reads all columns
		default:
			n.privilege(o.MaySelect, "SELECT", table)
			n.privilege(o.MayInsert || u == compares, "INSERT", table)
			n.privilege(o.MayUpdate || u == compares, "UPDATE", table)
			n.privilege(o.MayDelete || p.sets != "" || u != repairs, "DELETE", table)
		}
	}
	if len(n.missing) > 0 {
		return fmt.Errorf("%w: %s: call Create first", ErrMissing, strings.Join(n.missing, ", "))
	}
	return lacking(n.role, n.lacks, nil)
}
