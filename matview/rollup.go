package matview

import (
	"cmp"
	_ "embed"
	"fmt"
	"strings"

	"github.com/headrace/headrace/internal/pgschema"
)

// Aggregate is how a measure combines with new rows.
type Aggregate uint8

const (
	// AggregateSum adds up the values. It ignores NULLs, as sum does in SQL.
	AggregateSum Aggregate = iota + 1
	// AggregateCount counts the rows where Expr is not NULL, or all rows if Expr is empty.
	AggregateCount
	// AggregateMin keeps the smallest value.
	AggregateMin
	// AggregateMax keeps the greatest value.
	AggregateMax
)

// aggregates are the functions in SQL.
var aggregates = map[Aggregate]string{AggregateSum: "sum", AggregateCount: "count", AggregateMin: "min", AggregateMax: "max"}

// Column is a column of a roll-up's key.
type Column struct {
	// Name of the column in the roll-up.
	Name string
	// Expr over the columns of the promoted row. Default: the column of the same name. It is code:
	// never build it from input. It must not depend on the session: write date_trunc('hour', t,
	// 'UTC'), or sessions in two time zones fill two sets of hours.
	Expr string
	// Type of the column, as SQL writes it.
	Type string
}

// Measure is an aggregated column of a roll-up.
type Measure struct {
	Name string
	// Expr is the aggregated expression, without the aggregate: "quantity * price", not "sum(quantity
	// * price)". It is code: never build it from input.
	Expr string
	// Type of the column. Default bigint for a count and numeric for a sum; required for a minimum and
	// a maximum. A sum must be exact: [Rollup.Create] rejects a type that rounds the values of Expr,
	// and an Expr of a floating-point type. Round when you read: round(revenue, 2). Or round each row:
	// Expr "round(price * rate, 2)::numeric(12,2)".
	Type      string
	Aggregate Aggregate
}

// Rollup is a table of aggregates into which each promotion merges its rows, in the promotion's own
// transaction. NULL is a group like any other. The methods only read the Rollup: it is concurrency
// safe as long as you do not change it.
type Rollup struct {
	// Table is the roll-up's own table: `table`, `schema.table` or `"any name"."any name"`.
	Table string
	// From is the table that promotions write to, in the same spelling: [Rollup.Rebuild] and
	// [Rollup.Check] read it, and Create learns the types of the expressions from it.
	From string
	// Name of the merge, unique among the merges. Default: Table without its schema.
	Name     string
	GroupBy  []Column
	Measures []Measure
}

// The limits of a [Rollup].
const (
	maxKeyColumns = 32 // INDEX_MAX_KEYS
	maxMeasures   = 500
)

// Validate checks the roll-up as far as possible without a server. The other methods call it first.
func (r Rollup) Validate() error {
	for _, n := range []struct{ field, name string }{{"Table", r.Table}, {"From", r.From}} {
		if _, err := pgschema.ParseName(n.name); err != nil {
			return invalid("Rollup.%s is %q, %w", n.field, n.name, err)
		}
	}
	if n := len(r.GroupBy); n < 1 || n > maxKeyColumns {
		return invalid("Rollup.GroupBy has %d columns, must have 1 to %d", n, maxKeyColumns)
	}
	if n := len(r.Measures); n < 1 || n > maxMeasures {
		return invalid("Rollup.Measures has %d columns, must have 1 to %d", n, maxMeasures)
	}
	seen := map[string]bool{}
	checkName := func(field, name string) error {
		switch {
		case name == "" || len(name) > pgschema.MaxName || strings.ContainsRune(name, 0):
			return invalid("%s.Name is %q, must be 1 to %d bytes without NUL", field, name, pgschema.MaxName)
		case seen[name]:
			return invalid("%s.Name is %q, must be another than that of an earlier column", field, name)
		}
		seen[name] = true
		return nil
	}
	for i, c := range r.GroupBy {
		field := fmt.Sprintf("Rollup.GroupBy[%d]", i)
		if err := checkName(field, c.Name); err != nil {
			return err
		}
		if c.Type == "" {
			return invalid("%s.Type (column %s) is empty, must be an SQL type", field, c.Name)
		}
	}
	for i, m := range r.Measures {
		field := fmt.Sprintf("Rollup.Measures[%d]", i)
		if err := checkName(field, m.Name); err != nil {
			return err
		}
		if err := m.check(field); err != nil {
			return err
		}
	}
	return nil
}

func (m Measure) check(field string) error {
	switch {
	case m.Aggregate < AggregateSum || m.Aggregate > AggregateMax:
		return invalid("%s.Aggregate (column %s) is %d, must be AggregateSum, AggregateCount, AggregateMin or AggregateMax",
			field, m.Name, m.Aggregate)
	case m.Expr == "" && m.Aggregate != AggregateCount:
		return invalid("%s.Expr (column %s) is empty, must be an expression: only a count may leave it out", field, m.Name)
	case m.Type == "" && (m.Aggregate == AggregateMin || m.Aggregate == AggregateMax):
		return invalid("%s.Type (column %s) is empty, must be an SQL type", field, m.Name)
	}
	return nil
}

func (c Column) expr() string { return "(" + cmp.Or(c.Expr, pgschema.Quote(c.Name)) + ")" }

func (m Measure) sqlType() string {
	switch {
	case m.Type != "":
		return m.Type
	case m.Aggregate == AggregateCount:
		return "bigint"
	default:
		return "numeric"
	}
}

func (m Measure) aggregate() string {
	return aggregates[m.Aggregate] + "(" + cmp.Or(m.Expr, "*") + ")"
}

// merged is the new value of a row r that exists. The sum of a group that had only NULLs so far is
// NULL, and must not swallow the next value. least and greatest leave out NULLs.
func (m Measure) merged() string {
	q := pgschema.Quote(m.Name)
	switch m.Aggregate {
	case AggregateMin:
		return q + " = least(r." + q + ", excluded." + q + ")"
	case AggregateMax:
		return q + " = greatest(r." + q + ", excluded." + q + ")"
	default:
		return q + " = coalesce(r." + q + " + excluded." + q + ", r." + q + ", excluded." + q + ")"
	}
}

// keys and measures are the quoted columns, each after a prefix such as "r.".
func (r Rollup) keys(prefix string) []string {
	var names []string
	for _, c := range r.GroupBy {
		names = append(names, c.Name)
	}
	return pgschema.QuoteAll(prefix, names)
}

func (r Rollup) measures(prefix string) []string {
	var names []string
	for _, m := range r.Measures {
		names = append(names, m.Name)
	}
	return pgschema.QuoteAll(prefix, names)
}

// ordinals are the positions of the key among the columns: "1, 2".
func (r Rollup) ordinals() string {
	var o []string
	for i := range r.GroupBy {
		o = append(o, fmt.Sprint(i+1))
	}
	return strings.Join(o, ", ")
}

var (
	//go:embed rollup_groups.sql
	groupsSQL string
	//go:embed rollup_upsert.sql
	upsertSQL string
)

// groups aggregates the rows of a relation.
func (r Rollup) groups(from string) string {
	var cols []string
	for _, c := range r.GroupBy {
		cols = append(cols, c.expr()+"::"+c.Type+" AS "+pgschema.Quote(c.Name))
	}
	for _, m := range r.Measures {
		cols = append(cols, m.aggregate()+"::"+m.sqlType()+" AS "+pgschema.Quote(m.Name))
	}
	return trim(pgschema.Fill(groupsSQL, "columns", strings.Join(cols, ", "), "from", from, "key_ordinals", r.ordinals()))
}

// upsert writes the groups of a query into the roll-up.
func (r Rollup) upsert(query string, set []string, where string) string {
	return trim(pgschema.Fill(upsertSQL, "rollup", ident(r.Table), "columns", strings.Join(append(r.keys(""), r.measures("")...), ", "),
		"query", query, "key_ordinals", r.ordinals(), "keys", strings.Join(r.keys(""), ", "), "set", strings.Join(set, ", "), "where", where))
}

// trim removes the comment lines of a statement and its last line break: it becomes part of another
// one.
func trim(sql string) string {
	for strings.HasPrefix(sql, "--") {
		_, sql, _ = strings.Cut(sql, "\n")
	}
	return strings.TrimSpace(sql)
}

// Merge returns a name and the text of a data-modifying statement that reads the rows of one
// promotion from the common table expression "promoted" and merges them. It begins with INSERT and
// ends without a semicolon, so it serves as the body of a further common table expression or as the
// main statement. It merges the rows in the order of the key, so that two promoters cannot
// deadlock.
func (r Rollup) Merge() (name, sql string, err error) {
	if err := r.Validate(); err != nil {
		return "", "", err
	}
	set := make([]string, len(r.Measures))
	for i, m := range r.Measures {
		set[i] = m.merged()
	}
	table, err := pgschema.ParseName(r.Table)
	return cmp.Or(r.Name, table.Table), r.upsert(r.groups("promoted"), set, ""), err
}
