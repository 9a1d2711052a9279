package matview

import (
	_ "embed"
	"strconv"
	"strings"

	"github.com/headrace/headrace/internal/pgschema"
)

var (
	//go:embed rollup_sets.sql
	setsSQL string
	//go:embed rollup_sets_recompute.sql
	setsRecomputeSQL string
	//go:embed rollup_sets_missing.sql
	setsMissingSQL string
	//go:embed rollup_sets_check.sql
	setsCheckSQL string
)

// setWidth is the number of values of one row of a set. Wider rows cost more for a group that has
// few values, narrower ones for a group that has many.
const setWidth = 1024

// sets keep the distinct values of one measure. Each value has a number, in a [dictionary], and
// each group the set of its numbers: a row for each setWidth numbers of which it has some. Most
// values of a promotion are in few rows, so it writes few.
//
// A set has no room for reference counts, and the operator "=" finds the numbers. So [values] keep
// those of a roll-up with Rollup.Replaces, and those of types that are not built in.
type sets struct{ values }

// hasSets is true if the measure's values can be kept as sets.
func hasSets(r Rollup, m Measure) bool {
	typ := strings.ToLower(strings.TrimSpace(m.Type))
	typ, _, _ = strings.Cut(typ, " collate ")
	typ, _, _ = strings.Cut(typ, "(")
	return !r.Replaces && ownTypes[strings.TrimSpace(typ)]
}

// ownTypes are types of Postgres whose operator "=" is that of their unique indexes, wherever the
// search path leads.
var ownTypes = func() map[string]bool {
	own := map[string]bool{"double precision": true, "character varying": true}
	for t := range strings.FieldsSeq(`text varchar character char bpchar bool boolean bytea date uuid inet cidr macaddr interval jsonb
		smallint integer bigint int int2 int4 int8 numeric decimal real float4 float8 timestamp timestamptz time timetz`) {
		own[t] = true
	}
	return own
}()

// dictionary is the table that numbers the values.
func (s sets) dictionary() pgschema.Name {
	if name := s.measure().Dictionary; name != "" {
		return mustParse(name)
	}
	return s.name().With("_values")
}

func (s sets) table() table {
	return table{ident: s.name().String(), keys: append(s.r.keys(""), columnChunk), columns: []string{columnBits, columnChange}}
}

// fill fills a template with what most of them name.
func (s sets) fill(template, from string, pairs ...string) string {
	width := strconv.Itoa(setWidth)
	typ := "bit(" + width + ")"
	bits := "bit_or(set_bit(B'0'::" + typ + ", (" + columnNumber + " % " + width + "::bigint)::int, 1))"
	all := []string{
		"key_exprs", s.keyExprs(), "keys", join(s.r.keys("")), "value", s.value(s.measure().Expr), "expr", s.measure().Expr, "from", from,
		"values", s.dictionary().String(), "chunk", columnNumber + " / " + width, "bits", bits, "width", width,
		"key_ordinals", ordinals(len(s.r.GroupBy) + 1),
	}
	return trim(pgschema.Fill(template, append(all, pairs...)...))
}

func (s sets) merges(all dictionaries) []Merge {
	d := all[s.dictionary().String()]
	user := d.user(s)
	var out []Merge
	if user == 0 {
		out = d.merges()
	}
	gained := "excluded." + columnBits + " & ~r." + columnBits
	set := columnBits + " = r." + columnBits + " | excluded." + columnBits + ", " + columnChange + " = bit_count(" + gained + ")" +
		" WHERE bit_count(" + gained + ") > 0"
	query := s.fill(setsSQL, "promoted", "known", pgschema.Quote(d.step("known")), "known_keys", join(d.keys(user)))
	return append(out, Merge{Name: s.merge(), SQL: s.table().upsert(query, "UPDATE SET "+set) + " RETURNING " + join(append(s.r.keys(""), columnChange))})
}

func (s sets) gained() string { return "sum(" + columnChange + ")" }

func (s sets) parts() []part {
	keys := s.keyColumns()
	typ := "bit(" + strconv.Itoa(setWidth) + ")"
	create := createTable(s.table(), append(keys, columnChunk+" bigint NOT NULL", columnBits+" "+typ+" NOT NULL", columnChange+" bigint NOT NULL"), "50", false)
	return []part{
		dictionary{s}.part(),
		{
			what: "table of sets of distinct values", name: s.name(), table: s.table(), create: create,
			types: s.types()[:len(s.r.GroupBy)],
			nulls: "SELECT " + join(append(s.nullKeys(), "NULL::bigint AS "+columnChunk, "NULL::"+typ+" AS "+columnBits, "NULL::bigint AS "+columnChange)),
		},
	}
}

func (s sets) contents() contents {
	from := ident(s.r.From)
	keys := append(s.r.keys(""), columnValue)
	var texts []string
	for _, k := range keys {
		texts = append(texts, "coalesce("+k+"::text, 'NULL')")
	}
	return contents{
		table: s.table(), name: s.name().String(), query: s.fill(setsRecomputeSQL, from), before: s.fill(setsMissingSQL, from),
		check: func(limit string) string {
			return s.fill(setsCheckSQL, from, "table", s.name().String(), "columns", join(keys), "texts", join(texts), "limit", limit)
		},
		checkKeys: len(keys),
	}
}
