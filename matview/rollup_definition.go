package matview

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/pgschema"
)

// definitionPrefix begins the comment of a roll-up's table. The rest is a [definition].
const definitionPrefix = "headrace roll-up schema 2: "

// definition is what a roll-up's columns hold. The comment of its table records it: two definitions
// may have the same columns, and rows of one do not add up with rows of the other. Types are not
// part of it: the columns have them.
type definition struct {
	From         string            `json:"from"`
	Columns      map[string]string `json:"columns"`
	Dictionaries map[string]string `json:"dictionaries,omitempty"`
	// Session has the settings on which the expressions depend, as they were.
	Session map[string]string `json:"session,omitempty"`
}

func (r Rollup) definition(session map[string]string) definition {
	d := definition{From: mustParse(r.From).String(), Columns: map[string]string{}, Dictionaries: map[string]string{}, Session: session}
	for _, c := range r.GroupBy {
		d.Columns[c.Name] = cmp.Or(strings.TrimSpace(c.Expr), pgschema.Quote(c.Name))
	}
	for _, m := range r.Measures {
		d.Columns[m.Name] = fmt.Sprintf("%s(%s)", aggregateNames[m.Aggregate], cmp.Or(strings.TrimSpace(m.Expr), "*"))
	}
	for _, v := range r.distinct() {
		if s, ok := v.(sets); ok {
			d.Dictionaries[s.measure().Name] = s.dictionary().String()
		}
	}
	return d
}

var aggregateNames = map[Aggregate]string{
	AggregateSum: "sum", AggregateCount: "count", AggregateMin: "min", AggregateMax: "max", AggregateAverage: "average",
	AggregateDistinct: "distinct", AggregateSketch: "sketch",
}

// comment is the statement that records the definition.
func (r Rollup) comment(session map[string]string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // a DBA reads it
	if err := e.Encode(r.definition(session)); err != nil {
		panic("matview: a definition of texts cannot be encoded: " + err.Error())
	}
	return "COMMENT ON TABLE " + ident(r.Table) + " IS " + pgschema.Literal(definitionPrefix+strings.TrimSpace(b.String())) + ";\n"
}

// recorded is the definition in a comment.
func recorded(comment string) (d definition, ok bool) {
	text, ok := strings.CutPrefix(comment, definitionPrefix)
	ok = ok && json.Unmarshal([]byte(text), &d) == nil // before d is read for the return
	return d, ok
}

// redefined names the columns that the recorded definition computes otherwise. known is false if
// nothing is recorded.
func (r Rollup) redefined(ctx context.Context, tx pgx.Tx, comment string) (diffs []string, known bool, err error) {
	have, ok := recorded(comment)
	if !ok {
		return nil, false, nil
	}
	want := r.definition(nil)
	// Two spellings of a table are one: with and without its schema.
	another := func(a, b string) (is bool) {
		if a == "" || b == "" {
			return a != b
		}
		if a != b && err == nil {
			err = tx.QueryRow(ctx, `SELECT to_regclass($1) IS NULL OR to_regclass($1) IS DISTINCT FROM to_regclass($2)`, a, b).Scan(&is)
		}
		return is
	}
	if another(have.From, want.From) {
		diffs = append(diffs, fmt.Sprintf("it aggregates table %s, the definition has %s", have.From, want.From))
	}
	for _, name := range slices.Sorted(maps.Keys(want.Columns)) {
		if h, w := have.Columns[name], want.Columns[name]; h != w {
			diffs = append(diffs, fmt.Sprintf("column %s holds %s, the definition has %s", pgschema.Quote(name), h, w))
		}
		if h, w := have.Dictionaries[name], want.Dictionaries[name]; another(h, w) {
			diffs = append(diffs, fmt.Sprintf("the values of column %s are numbered by %s, the definition has %s", pgschema.Quote(name), h, w))
		}
	}
	return diffs, true, err
}

// checkDefinition refuses a roll-up that holds rows of another definition, or of a session in which
// its expressions have other values. The owner records the definition where none is, and where the
// roll-up is empty.
func (r Rollup) checkDefinition(ctx context.Context, tx pgx.Tx, o object, create bool) error {
	have, known := recorded(o.Comment)
	if !known && o.Comment != "" { // a comment of the user's own stays
		return nil
	}
	diffs, _, err := r.redefined(ctx, tx, o.Comment)
	if err != nil {
		return err
	}
	sessions, err := otherSession(ctx, tx, have.Session)
	if err != nil {
		return err
	}
	if create && o.Owner {
		same := known && len(diffs)+len(sessions) == 0
		mayRecord := !known || same && len(have.Session) == 0
		if !mayRecord && !same {
			if err := tx.QueryRow(ctx, "SELECT NOT EXISTS (SELECT FROM "+ident(r.Table)+")").Scan(&mayRecord); err != nil {
				return err
			}
		}
		if mayRecord {
			return r.recordNow(ctx, tx, same)
		}
	}
	fix := fixSession
	if len(diffs) > 0 {
		fix = "stop the programs with the old definition and call Rebuild as the owner, which recomputes the roll-up and records this one, " +
			"or change the definition back"
	}
	if diffs = append(diffs, sessions...); len(diffs) > 0 {
		return &DriftError{Object: "roll-up " + ident(r.Table), Differences: diffs, Fix: fix}
	}
	return nil
}

// recordNow records the definition. If only the session's settings may be missing, it does so where
// an expression depends on them.
func (r Rollup) recordNow(ctx context.Context, tx pgx.Tx, onlySession bool) error {
	session, err := r.session(ctx, tx)
	if err != nil || onlySession && len(session) == 0 {
		return err
	}
	_, err = tx.Exec(ctx, r.comment(session))
	return err
}

// record records the definition after a Rebuild, which makes it true. A role that cannot is refused
// before the work.
func (r Rollup) record(ctx context.Context, tx pgx.Tx) (record func() error, err error) {
	objects, err := lookUp(ctx, tx, []pgschema.Name{mustParse(r.Table)})
	if err != nil {
		return nil, err
	}
	o := objects[0]
	diffs, known, err := r.redefined(ctx, tx, o.Comment)
	if err == nil && known {
		have, _ := recorded(o.Comment)
		var sessions []string
		sessions, err = otherSession(ctx, tx, have.Session)
		diffs = append(diffs, sessions...)
	}
	switch {
	case err != nil:
		return nil, err
	case known && len(diffs) == 0, !known && (o.Comment != "" || !o.Owner):
		return func() error { return nil }, nil
	case !o.Owner:
		return nil, lacking(o.Role, nil, []string{"TABLE " + ident(r.Table)})
	}
	return func() error { return r.recordNow(ctx, tx, false) }, nil
}
