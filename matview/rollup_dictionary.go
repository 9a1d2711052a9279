package matview

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strconv"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
)

var (
	//go:embed rollup_dictionary.sql
	dictionarySQL string
	//go:embed rollup_dictionary_start.sql
	dictionaryStartSQL string
	//go:embed rollup_dictionary_found.sql
	dictionaryFoundSQL string
	//go:embed rollup_dictionary_number.sql
	dictionaryNumberSQL string
	//go:embed rollup_dictionary_known.sql
	dictionaryKnownSQL string
	//go:embed rollup_dictionary_lost.sql
	dictionaryLostSQL string
)

// smallDictionary is the number of values for each promoted row up to which all numbers are hashed:
// a lookup in the index takes about as long as hashing eight rows.
const smallDictionary = 8

// dictionary is a table that numbers distinct values, given by the sets that hold its numbers. All
// of them count the same values.
type dictionary []sets

// dictionaries of several roll-ups, by name.
type dictionaries map[string]dictionary

func dictionariesOf(rollups []Rollup) (dictionaries, error) {
	out := dictionaries{}
	for _, r := range rollups {
		for _, v := range r.distinct() {
			s, ok := v.(sets)
			if !ok {
				continue
			}
			name := s.dictionary().String()
			if d := out[name]; len(d) > 0 && d[0].counts() != s.counts() {
				return nil, invalid("%s.Dictionary (roll-up %s) is %s, must be another: roll-up %s numbers the values of %s there, this one those of %s",
					s.field(), s.r.Table, name, d[0].r.Table, d[0].counts(), s.counts())
			}
			out[name] = append(out[name], s)
		}
	}
	return out, nil
}

// counts describes the values.
func (s sets) counts() string {
	return fmt.Sprintf("(%s)::%s in %s", s.measure().Expr, s.measure().Type, s.r.From)
}

// step is the name of a statement among the merges.
func (d dictionary) step(what string) string {
	name := d[0].measure().Dictionary
	if name == "" {
		name = d[0].r.name() + " " + d[0].measure().Name
	}
	return pgschema.Derived(name, " "+what)
}

// keys names the columns of one user's groups among the columns of all.
func (d dictionary) keys(user int) []string {
	var out []string
	for i := range d[user].r.GroupBy {
		out = append(out, fmt.Sprintf("%sk%d_%d", hiddenPrefix, user, i))
	}
	return out
}

// merges find the number of each value, once for all users, and give new values a number.
func (d dictionary) merges() []Merge {
	var exprs, keys, pKeys, nulls []string
	for user, s := range d {
		for i, k := range d.keys(user) {
			c := s.r.GroupBy[i]
			exprs = append(exprs, c.expr()+"::"+c.Type+collated(c.Type)+" AS "+k)
			keys, pKeys, nulls = append(keys, k), append(pKeys, "p."+k), append(nulls, "NULL")
		}
	}
	first := d[0]
	values := first.dictionary().String()
	small := "(SELECT coalesce(max(" + columnNumber + ") - min(" + columnNumber + "), 0) FROM " + values + ") <= " + strconv.Itoa(smallDictionary) +
		" * (SELECT count(*) FROM promoted)"
	merge := func(step, template string) Merge {
		return Merge{Name: d.step(step), SQL: trim(pgschema.Fill(template,
			"key_exprs", join(exprs), "keys", join(keys), "p_keys", join(pKeys), "nulls", join(nulls),
			"value", first.value(first.measure().Expr), "expr", first.measure().Expr, "values", values, "small", "("+small+")",
			"found", pgschema.Quote(d.step("found")), "numbered", pgschema.Quote(d.step("numbered"))))}
	}
	return []Merge{merge("found", dictionaryFoundSQL), merge("numbered", dictionaryNumberSQL), merge("known", dictionaryKnownSQL)}
}

// start is the statement that chooses the first number of an empty dictionary. Only the owner may
// run it.
func (d dictionary) start() string {
	name := d[0].dictionary().String()
	return trim(pgschema.Fill(dictionaryStartSQL, "name", pgschema.Literal(name), "table", name, "width", strconv.Itoa(setWidth)))
}

func (d dictionary) part() part {
	s := d[0]
	typ := s.measure().Type
	t := table{ident: s.dictionary().String(), keys: []string{columnValue}}
	return part{
		what: "dictionary of distinct values", name: s.dictionary(), table: t,
		create: trim(pgschema.Fill(dictionarySQL, "table", t.ident, "type", typ+collated(typ))) + "\n" + d.start() + "\n",
		nulls:  "SELECT NULL::bigint AS " + columnNumber + ", NULL::" + typ + " AS " + columnValue,
		types:  []column{s.valueType()}, sets: s.name().String(),
	}
}

// user is the position of a set among the users.
func (d dictionary) user(s sets) int {
	return slices.IndexFunc(d, func(u sets) bool { return u.r.Table == s.r.Table && u.i == s.i })
}

// checkDictionaries refuses sets whose numbers are not those of their dictionary: it was dropped or
// emptied, and would give numbers that are in use to other values. One that does not exist is an
// oid of 0 in objects, which are those of the parts. Some rows of the sets are looked at.
func (r Rollup) checkDictionaries(ctx context.Context, tx pgx.Tx, parts []part, objects []object) error {
	for i, p := range parts {
		if p.sets == "" {
			continue
		}
		dictionary, rows := objects[i], objects[i+1]
		if rows.OID == 0 {
			continue
		}
		sql := "SELECT EXISTS (SELECT FROM " + p.sets + ")"
		if dictionary.OID != 0 {
			sql = trim(pgschema.Fill(dictionaryLostSQL, "sets", p.sets, "values", p.table.ident, "width", strconv.Itoa(setWidth)))
		}
		var lost bool
		if err := tx.QueryRow(ctx, sql).Scan(&lost); err != nil {
			return err
		}
		if lost {
			return &DriftError{
				Object: p.String(), Differences: []string{"it lacks numbers that table " + p.sets + " holds: it was dropped or emptied"},
				Fix: "call Rebuild for every roll-up that counts with it, while no promotion runs",
			}
		}
	}
	return nil
}

// restoreTables creates the tables of distinct values that were dropped, or that the recorded
// definition had no need of. A dictionary that was emptied begins with other numbers.
func (r Rollup) restoreTables(ctx context.Context, tx pgx.Tx) error {
	for _, v := range r.distinct() {
		for _, p := range v.parts() {
			found, err := lookUp(ctx, tx, []pgschema.Name{p.name})
			if err != nil {
				return err
			}
			if found[0].OID != 0 {
				if s, ok := v.(sets); ok && p.sets != "" && found[0].Owner {
					if _, err := tx.Exec(ctx, dictionary{s}.start()); err != nil {
						return err
					}
				}
				continue
			}
			if _, err := tx.Exec(ctx, p.create); err != nil {
				return &contextError{"create " + p.String(), err}
			}
		}
	}
	return nil
}
