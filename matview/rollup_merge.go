package matview

import (
	_ "embed"
	"strconv"
	"strings"

	"github.com/headrace/headrace/internal/pgschema"
)

var (
	//go:embed rollup_groups.sql
	groupsSQL string
	//go:embed rollup_upsert.sql
	upsertSQL string
	//go:embed rollup_values.sql
	valuesSQL string
	//go:embed rollup_values_counted.sql
	valuesCountedSQL string
	//go:embed rollup_changes.sql
	changesSQL string
	//go:embed rollup_recompute.sql
	recomputeSQL string
)

// Merge is a statement that runs inside the promotion, as a common table expression after those
// that it reads. Its fields are those of staging.Merge: staging.Merge(m) converts it.
type Merge struct {
	// Name of the common table expression. A later merge may read what the statement returns.
	Name string
	// SQL reads the common table expression "promoted", and "replaced" if Replaced is set. It has
	// no semicolon.
	SQL string
	// Replaced is true if SQL reads the rows that the promoted ones replace.
	Replaced bool
	// Then is a statement that has to run after the promotion's own, in the same transaction. "":
	// none.
	Then string
}

// table is what rows are written into: the roll-up, or a table of distinct values.
type table struct {
	ident         string
	keys, columns []string // quoted
}

func (r Rollup) table() table {
	return table{ident(r.Table), r.keys(""), names(r.written(), "")}
}

// upsert writes the rows of a query, in the order of the key: two writers cannot deadlock. Without
// an action rows that are there are left alone.
func (t table) upsert(query, action string) string {
	if action == "" {
		action = "NOTHING"
	}
	return trim(pgschema.Fill(upsertSQL, "table", t.ident, "columns", join(append(t.keys[:len(t.keys):len(t.keys)], t.columns...)), "query", query,
		"key_ordinals", ordinals(len(t.keys)), "keys", join(t.keys), "action", action))
}

func join(list []string) string { return strings.Join(list, ", ") }

// groups aggregates the rows of a relation.
func (r Rollup) groups(from string) string { return r.groupsOf(r.written(), from) }

func (r Rollup) groupsOf(columns []stored, from string) string {
	list := r.keyExprs()
	for _, s := range columns {
		list = append(list, "("+s.all+")::"+s.typ+" AS "+pgschema.Quote(s.name))
	}
	return grouped(list, from, len(r.GroupBy))
}

// keyExprs are the key's expressions over rows of the table, named.
func (r Rollup) keyExprs() []string {
	var out []string
	for _, c := range r.GroupBy {
		out = append(out, c.expr()+"::"+c.Type+" AS "+pgschema.Quote(c.Name))
	}
	return out
}

func grouped(columns []string, from string, keys int) string {
	return trim(pgschema.Fill(groupsSQL, "columns", join(columns), "from", from, "key_ordinals", ordinals(keys)))
}

// Merges returns the statements that merge one promotion's rows into the roll-up: [Merges] of this
// one alone.
func (r Rollup) Merges() ([]Merge, error) { return Merges(r) }

// Merges returns the statements that merge one promotion's rows into the roll-ups of one table, in
// order: for each those that keep its distinct values, then the one that writes the roll-up itself.
// They write in the order of the key, so that two promoters cannot deadlock. Roll-ups with a common
// Measure.Dictionary look each value up once.
func Merges(rollups ...Rollup) ([]Merge, error) {
	for _, r := range rollups {
		if err := r.Validate(); err != nil {
			return nil, err
		}
	}
	if err := checkTogether(rollups); err != nil {
		return nil, err
	}
	dictionaries, err := dictionariesOf(rollups)
	if err != nil {
		return nil, err
	}
	var out []Merge
	for _, r := range rollups {
		if r.Replaces {
			out = append(out, Merge{Name: r.changes(), SQL: r.changesSQL(), Replaced: true})
		}
		for _, v := range r.distinct() {
			out = append(out, v.merges(dictionaries)...)
		}
		out = append(out, r.mainMerge())
	}
	return out, nil
}

// mainMerge writes the roll-up itself.
func (r Rollup) mainMerge() Merge {
	var set []string
	for _, s := range r.written() {
		set = append(set, pgschema.Quote(s.name)+" = "+s.set)
	}
	main := Merge{Name: r.name(), SQL: r.table().upsert(r.deltas(), "UPDATE SET "+join(set)), Replaced: r.Replaces}
	if r.Replaces {
		main.Then = r.settle()
	}
	return main
}

// changes is the name of the statement that lists what came and what went.
func (r Rollup) changes() string { return pgschema.Derived(r.name(), " changes") }

func (r Rollup) changesSQL() string {
	columns := r.keyExprs()
	for i, m := range r.Measures {
		if m.Expr != "" {
			columns = append(columns, "("+m.Expr+") AS "+change(i))
		}
	}
	return trim(pgschema.Fill(changesSQL, "sign", columnSign, "columns", join(columns)))
}

// deltas is the query of what one promotion changes, one row a group.
func (r Rollup) deltas() string {
	query := r.groups("promoted")
	if !r.Replaces && len(r.distinct()) == 0 {
		return query
	}
	columns := r.written()
	if r.Replaces {
		list := r.keys("changes.")
		for _, s := range columns {
			list = append(list, "("+s.change+")::"+s.typ+" AS "+pgschema.Quote(s.name))
		}
		query = grouped(list, pgschema.Quote(r.changes())+" AS changes", len(r.GroupBy))
	} else {
		// The distinct values are counted by their own tables.
		for i, s := range columns {
			if s.change == "0" {
				columns[i].all = "0"
			}
		}
		query = r.groupsOf(columns, "promoted")
	}
	if len(r.distinct()) == 0 {
		return query
	}
	for _, v := range r.distinct() {
		query += "\nUNION ALL\n" + r.counted(v, columns)
	}
	list := r.keys("d.")
	for _, s := range columns {
		list = append(list, s.join+"(d."+pgschema.Quote(s.name)+")::"+s.typ)
	}
	return grouped(list, "("+query+") d", len(r.GroupBy))
}

// settle recomputes and deletes the groups that a promotion left stale.
func (r Rollup) settle() string {
	del := "DELETE FROM " + ident(r.Table) + " WHERE " + columnStale + " AND " + columnRows + " = 0"
	columns := r.recomputed()
	if len(columns) == 0 {
		return del
	}
	var freshKeys, stale, rows, exprs, nullRows, equal, rowNull, staleNull, aggregates, set []string
	for i, c := range r.GroupBy {
		k, e := hiddenPrefix+"k"+strconv.Itoa(i), c.expr()+"::"+c.Type
		stale = append(stale, pgschema.Quote(c.Name)+" AS "+k)
		rows = append(rows, "g."+k)
		nullRows = append(nullRows, e+" AS "+k)
		exprs = append(exprs, "("+e+")")
		equal = append(equal, e+" "+operator(c.Type, "=")+" g."+k)
		rowNull = append(rowNull, "("+e+")"+isNull)
		staleNull = append(staleNull, k+isNull)
		freshKeys = append(freshKeys, "fresh."+k)
	}
	for _, s := range columns {
		aggregates = append(aggregates, "("+s.all+")::"+s.typ+" AS "+pgschema.Quote(s.name))
		set = append(set, pgschema.Quote(s.name)+" = fresh."+pgschema.Quote(s.name))
	}
	return trim(pgschema.Fill(recomputeSQL, "rollup", ident(r.Table), "stale_keys", join(stale), "stale", columnStale, "rows", columnRows,
		"from", ident(r.From), "group_keys", join(rows), "null_keys", join(nullRows), "equal", strings.Join(equal, " AND "),
		"same", r.sameKey(exprs, rows), "is_null", strings.Join(rowNull, " OR "), "stale_null", strings.Join(staleNull, " OR "),
		"aggregates", join(aggregates), "key_ordinals", r.ordinals(), "set", join(set), "delete", del,
		"same_key", r.sameKey(r.keys("r."), freshKeys)))
}
