package matview

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/headrace/headrace/internal/pgschema"
)

// hiddenPrefix begins the names of the columns that are the roll-up's own.
const hiddenPrefix = "headrace_"

// The roll-up's own columns, and those of the tables of distinct values.
const (
	columnRows   = hiddenPrefix + "rows"   // rows of the group
	columnStale  = hiddenPrefix + "stale"  // the group must be recomputed, or deleted
	columnValue  = hiddenPrefix + "value"  // a distinct value
	columnCount  = hiddenPrefix + "n"      // rows that have the value
	columnChange = hiddenPrefix + "change" // what the last promotion added to columnCount, or how many values to a set
	columnNumber = hiddenPrefix + "number" // the number of a distinct value
	columnChunk  = hiddenPrefix + "chunk"  // a row of a set: its first number, divided by setWidth
	columnBits   = hiddenPrefix + "bits"   // the numbers that a row of a set has
	columnSign   = hiddenPrefix + "sign"   // 1: a row came; -1: it went
)

// stored is a column of the roll-up's table, after the key.
type stored struct {
	name, typ string
	generated string // the expression of a generated column; the rest is empty then
	all       string // its value over rows of the table
	change    string // its value over changes, with a sign
	join      string // the aggregate that joins the changes of several sources
	set       string // its new value, from the existing row r and the row excluded
}

// suffix is the longest that the measure appends to its name.
func (m Measure) suffix() string {
	switch m.Aggregate {
	case AggregateAverage:
		return "_count"
	case AggregateSketch:
		return "_sketch"
	default:
		return ""
	}
}

// columnsOf are the columns of measure i.
func (r Rollup) columnsOf(i int) []stored {
	m := r.Measures[i]
	value := change(i)
	switch m.Aggregate {
	case AggregateCount:
		return []stored{r.countColumn(m.Name, m.sqlType(), cmp.Or(m.Expr, "*"), i)}
	case AggregateMin, AggregateMax:
		f, choose := "min", "least"
		if m.Aggregate == AggregateMax {
			f, choose = "max", "greatest"
		}
		return []stored{{
			name: m.Name, typ: m.Type, all: m.function(f) + "(" + m.Expr + ")",
			change: m.function(f) + "(" + value + ") FILTER (WHERE " + columnSign + " > 0)", join: m.function(f),
			set: choose + "(" + both(m.Name, ", ") + ")",
		}}
	case AggregateAverage:
		sum, count := m.Name+"_sum", m.Name+"_count"
		return []stored{
			m.averageColumn(sum, count),
			r.sumColumn(sum, m.sqlType(), m.Expr, i, count), r.countColumn(count, "bigint", m.Expr, i),
		}
	case AggregateDistinct:
		return []stored{{
			name: m.Name, typ: "bigint", all: "pg_catalog.count(DISTINCT (" + m.Expr + ")::" + m.Type + ")", change: "0", join: "sum", set: both(m.Name, " + "),
		}}
	case AggregateSketch:
		name := m.Name + "_sketch"
		empty := ", B'0'::" + m.sketchType() + ")"
		return []stored{
			{name: m.Name, typ: "bigint", generated: SketchCount(pgschema.Quote(name))},
			{
				name: name, typ: m.sketchType(), all: "coalesce(" + m.sketch(m.Expr, "true") + empty,
				change: "coalesce(" + m.sketch(value, columnSign+" > 0") + empty, join: "bit_or", set: both(name, " | "),
			},
		}
	default:
		if !r.Replaces {
			return []stored{r.sumColumn(m.Name, m.sqlType(), m.Expr, i, "")}
		}
		// The sum of a group whose last value was replaced by NULL is NULL again.
		count := fmt.Sprintf("%svalues_%d", hiddenPrefix, i)
		return []stored{r.sumColumn(m.Name, m.sqlType(), m.Expr, i, count), r.countColumn(count, "bigint", m.Expr, i)}
	}
}

// averageColumn is generated, so that it is there to be read. It is not rounded: the type of the
// sum may have few decimals.
func (m Measure) averageColumn(sum, count string) stored {
	s := stored{name: m.Name, typ: "numeric", generated: pgschema.Quote(sum) + "::numeric / nullif(" + pgschema.Quote(count) + ", 0)::numeric"}
	for own, by := range map[string]string{"interval": "float8", "money": "bigint"} {
		if strings.HasPrefix(strings.ToLower(m.Type), own) {
			s.typ, s.generated = own, pgschema.Quote(sum)+" / nullif("+pgschema.Quote(count)+", 0)::"+by
		}
	}
	return s
}

// function is an aggregate function over the measure's values.
func (m Measure) function(name string) string { return aggregate(m.Type, name) }

// change is the column of a measure's values in the changes.
func change(i int) string { return fmt.Sprintf("%sv%d", hiddenPrefix, i) }

// both joins the existing and the new value of a column.
func both(name, by string) string {
	q := pgschema.Quote(name)
	return "r." + q + by + "excluded." + q
}

// sumColumn adds. The sum of a group that had only NULLs so far is NULL, and must not swallow the
// next value. count is the column that counts the values, where they can become none.
func (r Rollup) sumColumn(name, typ, expr string, i int, count string) stored {
	set := "coalesce(" + both(name, " "+operator(typ, "+")+" ") + ", " + both(name, ", ") + ")"
	if r.Replaces {
		// The sum of a stale group is recomputed. That of infinite intervals cannot be added to.
		set = "CASE WHEN excluded." + columnStale + " THEN r." + pgschema.Quote(name) + " WHEN " + both(count, " + ") + " > 0 THEN " + set + " END"
	}
	return stored{
		name: name, typ: typ, all: aggregate(typ, "sum") + "(" + expr + ")", change: fitting(signedSum(change(i), typ), typ), join: aggregate(typ, "sum"), set: set,
	}
}

// signedSum adds what came and subtracts what went. The sums are subtracted, because the smallest
// value of an integer type has no opposite. One that is not finite is left out: its group is stale.
func signedSum(value, typ string) string {
	sum := aggregate(typ, "sum") + "(" + value + ") FILTER (WHERE " + columnSign
	came, went := sum+" > 0)", sum+" < 0)"
	went = "CASE WHEN NOT " + notFinite(went) + " THEN (" + went + ") " + operator(typ, "*") + " -1 END"
	return "coalesce(" + join([]string{came + " " + operator(typ, "+") + " " + went, came, went}) + ")"
}

// notFinite is true for a sum from which nothing can be taken out again. Since PostgreSQL 17
// intervals are infinite too.
func notFinite(sum string) string {
	return "coalesce(lower((" + sum + ")::text) IN ('nan', 'infinity', '-infinity'), false)"
}

func (r Rollup) countColumn(name, typ, expr string, i int) stored {
	filter := ""
	if expr != "*" {
		filter = " FILTER (WHERE " + change(i) + isSet + ")"
	}
	return stored{
		name: name, typ: typ, all: "pg_catalog.count(" + expr + ")", change: "coalesce(sum(" + columnSign + ")" + filter + ", 0)", join: "sum",
		set: both(name, " "+postgres("+")+" "), // also of a domain
	}
}

// allColumns are those of all measures, and the roll-up's own.
func (r Rollup) allColumns() []stored {
	var out []stored
	for i := range r.Measures {
		out = append(out, r.columnsOf(i)...)
	}
	if r.Replaces {
		// Where nothing is recomputed, a group that was empty for a while is complete again.
		stale := both(columnRows, " + ") + " = 0"
		if len(r.recomputed()) > 0 {
			stale = both(columnStale, " OR ") + " OR " + stale
		}
		out = append(out,
			stored{name: columnRows, typ: "bigint", all: "count(*)", change: "sum(" + columnSign + ")", join: "sum", set: both(columnRows, " + ")},
			stored{
				name: columnStale, typ: "boolean", all: "false", change: r.stale(), join: "bool_or", set: stale,
			})
	}
	return out
}

// written are the columns that are not generated.
func (r Rollup) written() []stored {
	var out []stored
	for _, s := range r.allColumns() {
		if s.generated == "" {
			out = append(out, s)
		}
	}
	return out
}

// recomputed are the columns from which a replaced row cannot be subtracted: a sum only if the
// row's value was NaN or infinite.
func (r Rollup) recomputed() []stored {
	var out []stored
	for i, m := range r.Measures {
		switch m.Aggregate {
		case AggregateMin, AggregateMax:
			out = append(out, r.columnsOf(i)...)
		case AggregateSketch:
			out = append(out, r.columnsOf(i)[1])
		case AggregateSum:
			out = append(out, r.columnsOf(i)[0])
		case AggregateAverage:
			out = append(out, r.columnsOf(i)[1])
		default:
		}
	}
	return out
}

// stale is true for the changes of a group that take away its minimum or its maximum, a value from
// a sketch, or from a sum one that is not finite: NaN - NaN is not 0. So it is for a change that
// does not fit into the column of a sum.
func (r Rollup) stale() string {
	var lost, odd, unfit []string
	for i, m := range r.Measures {
		// The column may have rounded the value.
		q, gone := "r."+pgschema.Quote(m.Name), "("+change(i)+") FILTER (WHERE "+columnSign+" < 0))::"+m.Type
		beyond := func(function, symbol string) string {
			value := "(" + m.function(function) + gone
			return "(" + value + isSet + " AND " + compared(value, symbol, q) + ")"
		}
		switch m.Aggregate {
		case AggregateMin:
			lost = append(lost, beyond("min", "<="))
		case AggregateMax:
			lost = append(lost, beyond("max", ">="))
		case AggregateSketch:
			odd = append(odd, "true")
		case AggregateSum, AggregateAverage:
			if sum := signedSum(change(i), m.sqlType()); fits(sum, m.sqlType()) != "" {
				unfit = append(unfit, "NOT coalesce("+fits(sum, m.sqlType())+", true)")
			}
			odd = append(odd, notFinite(aggregate(m.sqlType(), "sum")+"("+change(i)+") FILTER (WHERE "+columnSign+" < 0)"))
		default:
		}
	}
	if len(lost) > 0 {
		odd = append(odd, "EXISTS (SELECT FROM "+ident(r.Table)+" r WHERE "+
			r.sameKey(r.keys("r."), r.keys("changes."))+" AND ("+strings.Join(lost, " OR ")+"))")
	}
	if len(odd) > 0 {
		unfit = append(unfit, "bool_or("+columnSign+" < 0) AND ("+strings.Join(odd, " OR ")+")")
	}
	return cmp.Or(strings.Join(unfit, " OR "), "false")
}

// Tests of an expression. IS NULL is true of a composite value with nothing but NULLs in it, and IS
// NOT NULL false of one with a single NULL: neither is the opposite of the other. These are.
const (
	isNull = " IS NOT DISTINCT FROM NULL"
	isSet  = " IS DISTINCT FROM NULL"
)

// sameKey compares keys, of which parts may be NULL, so that an index can serve it.
func (r Rollup) sameKey(a, b []string) string {
	var out []string
	for i, c := range r.GroupBy {
		out = append(out, fmt.Sprintf("(%[1]s %[4]s %[2]s OR %[1]s%[3]s AND %[2]s%[3]s)", a[i], b[i], isNull, operator(c.Type, "=")))
	}
	return strings.Join(out, " AND ")
}

func (m Measure) sqlType() string {
	switch {
	case m.Aggregate == AggregateDistinct:
		return "bigint"
	case m.Type != "":
		return m.Type
	case m.Aggregate == AggregateCount:
		return "bigint"
	default:
		return "numeric"
	}
}

// names are the quoted names of columns, each after a prefix such as "r.".
func names(columns []stored, prefix string) []string {
	var out []string
	for _, s := range columns {
		out = append(out, prefix+pgschema.Quote(s.name))
	}
	return out
}
