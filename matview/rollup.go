package matview

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
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
	// AggregateAverage keeps a sum and a count, in the columns name_sum and name_count. The column
	// name is generated from the two. Merge the averages of several groups as sum(name_sum) /
	// sum(name_count).
	AggregateAverage
	// AggregateDistinct counts the distinct values of Expr, exactly. Each value gets a number, once
	// for the whole roll-up, in a table named by Measure.Dictionary: about 100 bytes. The table
	// table_name holds the numbers of each group as bits, 1,024 to a row. A promotion looks up each
	// value and writes the rows whose bits change, so repeated values are cheap. With
	// Rollup.Replaces, or a type that is not built in, table_name holds one row for each value of
	// each group instead: about 100 bytes, and as much time as a row of a narrow target.
	AggregateDistinct
	// AggregateSketch estimates the number of distinct values of Expr from a sketch of a fixed size,
	// in the column name_sketch. The column name is generated from it. The standard error is 0.7 /
	// √(2^Precision). Sketches merge: [SketchCount] of bit_or(name_sketch) estimates the distinct
	// values of several groups together.
	AggregateSketch
)

// Column is a column of a roll-up's key.
type Column struct {
	// Name of the column in the roll-up.
	Name string
	// Expr over the columns of the promoted row. Default: the column of the same name. It is code:
	// never build it from input. Name the time zone: date_trunc('day', t, 'UTC'), because
	// date_trunc('day', t) begins days elsewhere in a session with another zone. If an expression, or
	// its cast to Type, gives other values for sample times in another session, [Rollup.Create]
	// records the TimeZone, or the order of day and month in DateStyle. Create, Verify and Check
	// return an [ErrDrift] in a session that differs, until [Rollup.Rebuild] has recomputed the
	// roll-up in it.
	Expr string
	// Type of the column, as SQL writes it. It must group as the table's own column does: a text with
	// a nondeterministic collation needs that collation (text COLLATE "folded"), citext stays citext.
	// [Rollup.Create] refuses others.
	Type string
}

// Measure is an aggregated column of a roll-up.
type Measure struct {
	Name string
	// Expr is the aggregated expression, without the aggregate: "quantity * price", not "sum(quantity
	// * price)". It is code: never build it from input. Like that of a [Column], it must follow from
	// the row alone: now(), random() or another table have other values later.
	Expr string
	// Type of the column. Default bigint for a count and numeric for a sum and an average; a minimum
	// and a maximum need one. For AggregateDistinct it is the type of the values, which it needs too.
	// A sketch has none. A sum must be exact: [Rollup.Create] refuses a type that rounds what Expr
	// yields, and an Expr of a floating-point type. Round when you read: round(revenue, 2). Or round
	// each row: Expr "round(price * rate, 2)::numeric(12,2)". What one promotion adds to a sum must
	// fit into its type too, unless Rollup.Replaces is set: numeric has no limit. A domain with a
	// constraint is refused for sums and counts.
	Type      string
	Aggregate Aggregate
	// Dictionary is the table in which AggregateDistinct numbers the values. Default: the roll-up's
	// table with _name_values appended. Roll-ups of one table that count the same values may share
	// it: pass them to [Merges] together, and a promotion looks up each value once instead of once
	// for each roll-up. A value that leaves the table keeps its number. With Rollup.Replaces, or a
	// type that is not built in, there is none.
	Dictionary string
	// Precision of a sketch: it has 2^Precision rows of 24 bits. Default [DefaultPrecision].
	Precision int
}

// Rollup is a table of aggregates into which each promotion merges its rows, in the promotion's own
// transaction. NULL is a group like any other. The methods only read the Rollup: it is concurrency
// safe as long as you do not change it.
type Rollup struct {
	// Table is the roll-up's own table: `table`, `schema.table` or `"any name"."any name"`.
	Table string
	// From is the table that promotions write to, in the same spelling: [Rollup.Rebuild] and
	// [Rollup.Check] read it, and Create learns the types of the expressions from it. It may be
	// partitioned.
	From string
	// Name of the merge, unique among the merges. Default: Table without its schema.
	Name     string
	GroupBy  []Column
	Measures []Measure
	// Replaces is for promotions that replace rows: the merge takes the old values out again. Sums,
	// counts and averages are subtracted, distinct values have reference counts, and a group without
	// rows is deleted. A minimum or a maximum is recomputed from the table if its own row was
	// replaced, and a sketch if any row of the group was. An index on the key's expressions makes that
	// cheap; without one it is a scan of the table. PostgreSQL 15 cannot index date_trunc('day', at,
	// 'UTC'): write date_trunc('day', at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'.
	Replaces bool
}

// The limits of a [Rollup].
const (
	maxKeyColumns = 32  // INDEX_MAX_KEYS
	maxMeasures   = 150 // averages of 44 bytes, so that a row with its key fits on a page
)

// Validate checks the roll-up as far as possible without a server. The other methods call it first.
func (r Rollup) Validate() error {
	for _, n := range []struct{ field, name string }{{"Table", r.Table}, {"From", r.From}} {
		if _, err := pgschema.ParseName(n.name); err != nil {
			return invalid("Rollup.%s is %q, %w", n.field, n.name, err)
		}
	}
	most, why := maxKeyColumns, ""
	if slices.ContainsFunc(r.Measures, func(m Measure) bool { return m.Aggregate == AggregateDistinct }) {
		most, why = maxKeyColumns-1, " in a roll-up that counts distinct values: their tables have one more key column"
	}
	if n := len(r.GroupBy); n < 1 || n > most {
		return invalid("Rollup.GroupBy has %d columns, must have 1 to %d%s", n, most, why)
	}
	if n := len(r.Measures); n < 1 || n > maxMeasures {
		return invalid("Rollup.Measures has %d columns, must have 1 to %d", n, maxMeasures)
	}
	seen := map[string]bool{}
	checkName := func(field, name string, suffix int) error {
		switch {
		case name == "" || len(name)+suffix > pgschema.MaxName || strings.ContainsRune(name, 0):
			return invalid("%s.Name is %q, must be 1 to %d bytes without NUL", field, name, pgschema.MaxName-suffix)
		case strings.HasPrefix(name, hiddenPrefix):
			return invalid("%s.Name is %q, must not begin with %s", field, name, hiddenPrefix)
		}
		return nil
	}
	for i, c := range r.GroupBy {
		field := fmt.Sprintf("Rollup.GroupBy[%d]", i)
		if err := checkName(field, c.Name, 0); err != nil {
			return err
		}
		if seen[c.Name] {
			return invalid("%s.Name is %q, must differ from that of every earlier column", field, c.Name)
		}
		seen[c.Name] = true
		if c.Type == "" {
			return invalid("%s.Type (column %s) is empty, must be an SQL type", field, c.Name)
		}
	}
	for i, m := range r.Measures {
		field := fmt.Sprintf("Rollup.Measures[%d]", i)
		if err := checkName(field, m.Name, len(m.suffix())); err != nil {
			return err
		}
		if err := m.check(field); err != nil {
			return err
		}
		if err := r.checkDictionary(m, field); err != nil {
			return err
		}
		for _, s := range r.columnsOf(i) {
			if seen[s.name] {
				return invalid("%s.Name is %q, must differ from that of every earlier column", field, m.Name)
			}
			seen[s.name] = true
		}
	}
	tables := map[string]bool{mustParse(r.Table).String(): true, mustParse(r.From).String(): true}
	for _, v := range r.distinct() {
		for _, p := range v.parts() {
			if name := p.name.String(); tables[name] {
				return invalid("%s (column %s) needs a table %s, must have another Name or Dictionary: that table is in use",
					v.field(), v.measure().Name, name)
			}
			tables[p.name.String()] = true
		}
	}
	return nil
}

func (m Measure) check(field string) error {
	switch {
	case m.Aggregate < AggregateSum || m.Aggregate > AggregateSketch:
		return invalid("%s.Aggregate (column %s) is %d, must be AggregateSum, AggregateCount, AggregateMin, AggregateMax, "+
			"AggregateAverage, AggregateDistinct or AggregateSketch", field, m.Name, m.Aggregate)
	case m.Expr == "" && m.Aggregate != AggregateCount:
		return invalid("%s.Expr (column %s) is empty, must be an expression: only a count may leave it out", field, m.Name)
	case m.Type == "" && (m.Aggregate == AggregateMin || m.Aggregate == AggregateMax || m.Aggregate == AggregateDistinct):
		return invalid("%s.Type (column %s) is empty, must be an SQL type", field, m.Name)
	case m.Type != "" && m.Aggregate == AggregateSketch:
		return invalid("%s.Type (column %s) is %s, must be empty for a sketch", field, m.Name, m.Type)
	case m.Precision != 0 && (m.Aggregate != AggregateSketch || m.Precision < minPrecision || m.Precision > maxPrecision):
		return invalid("%s.Precision (column %s) is %d, must be %d to %d for a sketch and 0 otherwise",
			field, m.Name, m.Precision, minPrecision, maxPrecision)
	}
	return nil
}

func (r Rollup) checkDictionary(m Measure, field string) error {
	if m.Dictionary == "" {
		return nil
	}
	if m.Aggregate != AggregateDistinct || !hasSets(r, m) {
		return invalid("%s.Dictionary (column %s) is %s, must be empty: only AggregateDistinct of a built-in type, without Rollup.Replaces, numbers values",
			field, m.Name, m.Dictionary)
	}
	if _, err := pgschema.ParseName(m.Dictionary); err != nil {
		return invalid("%s.Dictionary (column %s) is %q, %w", field, m.Name, m.Dictionary, err)
	}
	return nil
}

func (c Column) expr() string { return "(" + cmp.Or(c.Expr, pgschema.Quote(c.Name)) + ")" }

// keys and measures are the quoted columns, each after a prefix such as "r.".
func (r Rollup) keys(prefix string) []string {
	var names []string
	for _, c := range r.GroupBy {
		names = append(names, c.Name)
	}
	return pgschema.QuoteAll(prefix, names)
}

// name is what the merge is called among others.
func (r Rollup) name() string {
	if r.Name != "" {
		return r.Name
	}
	n, err := pgschema.ParseName(r.Table)
	if err != nil {
		panic("matview: a name was not checked: " + r.Table)
	}
	return n.Table
}

// ordinals are the positions of the key among the columns: "1, 2".
func (r Rollup) ordinals() string { return ordinals(len(r.GroupBy)) }

func ordinals(n int) string {
	o := make([]string, n)
	for i := range o {
		o[i] = strconv.Itoa(i + 1)
	}
	return strings.Join(o, ", ")
}

// trim removes the comment lines of a statement and its last line break: it becomes part of another
// one.
func trim(sql string) string {
	for strings.HasPrefix(sql, "--") {
		_, sql, _ = strings.Cut(sql, "\n")
	}
	return strings.TrimSpace(sql)
}
