package matview

import (
	_ "embed"
	"fmt"
	"regexp"
	"strings"

	"github.com/headrace/headrace/internal/pgschema"
)

//go:embed rollup_values_all.sql
var valuesAllSQL string

// distinct is a measure that counts distinct values exactly: [values] or [sets].
type distinct interface {
	measure() Measure
	name() pgschema.Name // of the table that has the values, or the sets
	field() string       // for error texts
	// merges come before that of the roll-up. The last one, called merge, returns the groups to which
	// values were added.
	merges(all dictionaries) []Merge
	merge() string
	gained() string // the number of values that a group has gained, over what the last merge returns
	parts() []part
	contents() contents
}

// distinct are the measures that count distinct values exactly.
func (r Rollup) distinct() []distinct {
	var out []distinct
	for i, m := range r.Measures {
		switch v := (values{r, i}); {
		case m.Aggregate != AggregateDistinct:
		case hasSets(r, m):
			out = append(out, sets{v})
		default:
			out = append(out, v)
		}
	}
	return out
}

// values keep the distinct values of one measure in a table of their own: one row for each value of
// each group. With Rollup.Replaces a row also has the number of rows that have the value.
type values struct {
	r Rollup
	i int
}

func (v values) measure() Measure { return v.r.Measures[v.i] }

func (v values) field() string { return fmt.Sprintf("Rollup.Measures[%d]", v.i) }

// name of the table.
func (v values) name() pgschema.Name {
	return mustParse(v.r.Table).With("_" + v.measure().Name)
}

// mustParse splits a name that Validate has checked.
func mustParse(name string) pgschema.Name {
	n, err := pgschema.ParseName(name)
	if err != nil {
		panic("matview: a name was not checked: " + name)
	}
	return n
}

// merge is the name of the statement among the merges.
func (v values) merge() string { return pgschema.Derived(v.r.name(), " "+v.measure().Name) }

func (v values) table() table {
	t := table{ident: v.name().String(), keys: append(v.r.keys(""), columnValue)}
	if v.r.Replaces {
		t.columns = []string{columnCount, columnChange, columnStale}
	}
	return t
}

// collated adds the collation of bytes to a plain text: two texts that a deterministic collation
// calls equal have the same bytes, and comparing bytes takes less than half the time.
func collated(typ string) string {
	if isPlainText(typ) {
		return ` COLLATE "C"`
	}
	return ""
}

func isPlainText(typ string) bool { return plainText.MatchString(strings.TrimSpace(typ)) }

// isText is true for a type of text, or of its arrays, whose collation is the default.
func isText(typ string) bool { return anyText.MatchString(strings.TrimSpace(typ)) }

// A type of the user's own may begin like one of these: chart, text_kind.
var (
	plainText = regexp.MustCompile(`(?i)^(pg_catalog\s*\.\s*)?(text|varchar|(national\s+)?char(acter)?\s+varying|nchar\s+varying)\s*(\(\s*\d+\s*\))?$`)
	anyText   = regexp.MustCompile(`(?i)^(pg_catalog\s*\.\s*)?(text|varchar|bpchar|nchar(\s+varying)?|(national\s+)?char(acter)?(\s+varying)?)\s*(\(\s*\d+\s*\))?\s*(array\s*)?(\[\s*\d*\s*\]\s*)*$`)
)

// asStored gives an expression the collation of its column in the table of distinct values. The
// target's may be another, and Postgres compares no rows of which one column has two collations.
func asStored(typ string) string {
	if c := collated(typ); c != "" || !isText(typ) {
		return c
	}
	return ` COLLATE "default"`
}

// keyExprs are the key's expressions over rows of the table.
func (v values) keyExprs() string {
	var out []string
	for _, c := range v.r.GroupBy {
		out = append(out, c.expr()+"::"+c.Type+asStored(c.Type)+" AS "+pgschema.Quote(c.Name))
	}
	return join(out)
}

func (v values) value(expr string) string {
	typ := v.measure().Type
	return "(" + expr + ")::" + typ + asStored(typ) + " AS " + columnValue
}

// all is the query of the values in a relation.
func (v values) all(from string) string {
	template := valuesSQL
	if v.r.Replaces {
		template = valuesAllSQL
	}
	return trim(pgschema.Fill(template, "keys", v.keyExprs(), "value", v.value(v.measure().Expr), "from", from,
		"expr", v.measure().Expr, "key_ordinals", ordinals(len(v.r.GroupBy)+1)))
}

// merged writes the values of one promotion and returns those that are new or have changed.
func (v values) merged() string {
	t, keys := v.table(), join(v.r.keys(""))
	if !v.r.Replaces {
		return t.upsert(v.all("promoted"), "") + " RETURNING " + keys
	}
	var list []string
	for _, c := range v.r.GroupBy {
		list = append(list, pgschema.Quote(c.Name)+collated(c.Type)+" AS "+pgschema.Quote(c.Name))
	}
	query := trim(pgschema.Fill(valuesCountedSQL, "keys", join(list), "value", v.value(change(v.i)), "sign", columnSign,
		"changes", pgschema.Quote(v.r.changes()), "column", change(v.i), "key_ordinals", ordinals(len(v.r.GroupBy)+1)))
	n := both(columnCount, " + ")
	set := columnCount + " = " + n + ", " + columnChange + " = excluded." + columnCount + ", " + columnStale + " = " + n + " = 0"
	return t.upsert(query, "UPDATE SET "+set) + " RETURNING " + join([]string{keys, columnCount, columnChange})
}

func (v values) merges(dictionaries) []Merge {
	m := Merge{Name: v.merge(), SQL: v.merged(), Replaced: v.r.Replaces}
	if v.r.Replaces {
		m.Then = "DELETE FROM " + v.table().ident + " WHERE " + columnStale
	}
	return []Merge{m}
}

func (v values) gained() string {
	if v.r.Replaces {
		return "sum((" + columnCount + " > 0)::int - (" + columnCount + " - " + columnChange + " > 0)::int)"
	}
	return "count(*)"
}

// counted is the query of how many distinct values each group has gained, with the columns of the
// roll-up.
func (r Rollup) counted(v distinct, columns []stored) string {
	var list []string
	for _, c := range r.GroupBy {
		k := pgschema.Quote(c.Name)
		if isPlainText(c.Type) {
			k += ` COLLATE "default"`
		}
		list = append(list, k)
	}
	for _, s := range columns {
		if s.name == v.measure().Name {
			list = append(list, v.gained()+"::"+s.typ)
		} else {
			list = append(list, "NULL::"+s.typ)
		}
	}
	return grouped(list, pgschema.Quote(v.merge()), len(r.GroupBy))
}

// keyColumns are the columns of the key, for CREATE TABLE.
func (v values) keyColumns() []string {
	var columns []string
	for _, c := range v.r.GroupBy {
		columns = append(columns, pgschema.Quote(c.Name)+" "+c.Type+collated(c.Type))
	}
	return columns
}

// nullKeys are NULLs of their types.
func (v values) nullKeys() []string {
	var columns []string
	for _, c := range v.r.GroupBy {
		columns = append(columns, "NULL::"+c.Type+" AS "+pgschema.Quote(c.Name))
	}
	return columns
}

func (v values) parts() []part {
	return []part{{what: "table of distinct values", name: v.name(), table: v.table(), create: v.create(), nulls: v.nulls(), types: v.types()}}
}

func (v values) contents() contents {
	t := v.table()
	columns := append(t.keys[:len(t.keys):len(t.keys)], t.columns...)
	var named []string
	for _, c := range columns {
		named = append(named, "x."+c)
	}
	query := "SELECT " + join(named) + " FROM (" + v.all(ident(v.r.From)) + ") x (" + join(columns) + ")"
	return contents{table: t, name: v.name().String(), query: query}
}

// create makes the table.
func (v values) create() string {
	columns := append(v.keyColumns(), columnValue+" "+v.measure().Type+collated(v.measure().Type)+" NOT NULL")
	fill := "100"
	if v.r.Replaces {
		columns = append(columns, columnCount+" bigint NOT NULL", columnChange+" bigint NOT NULL", columnStale+" boolean NOT NULL")
		fill = "80"
	}
	return createTable(v.table(), columns, fill, v.r.Replaces)
}
