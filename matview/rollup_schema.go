package matview

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
)

var (
	//go:embed rollup_table.sql
	rollupTableSQL string
	//go:embed rollup_stale.sql
	rollupStaleSQL string
	//go:embed rollup_identity.sql
	rollupIdentitySQL string
	//go:embed rollup_collations.sql
	rollupCollationsSQL string
)

// SQL returns the schema of the roll-up for a migration tool. [Rollup.Verify] accepts what it
// creates. A role that promotes needs SELECT, INSERT and UPDATE on the tables, and DELETE with
// Rollup.Replaces. One that rebuilds the roll-up needs DELETE.
func (r Rollup) SQL() (string, error) {
	if err := r.Validate(); err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("-- " + definitionPrefix + r.Table + "\n" + r.create())
	for _, v := range r.distinct() {
		for _, p := range v.parts() {
			b.WriteString(p.create)
		}
	}
	return b.String(), nil
}

func (r Rollup) create() string {
	var columns []string
	for _, c := range r.GroupBy {
		columns = append(columns, pgschema.Quote(c.Name)+" "+c.Type)
	}
	for _, s := range r.allColumns() {
		column := pgschema.Quote(s.name) + " " + s.typ
		if s.generated != "" {
			column += " GENERATED ALWAYS AS (" + s.generated + ") STORED"
		}
		columns = append(columns, column)
	}
	return createTable(r.table(), columns, "80", r.Replaces) + r.comment(nil)
}

func createTable(t table, columns []string, fill string, stale bool) string {
	sql := pgschema.Fill(rollupTableSQL, "table", t.ident, "columns", join(columns), "keys", join(t.keys), "fill", fill)
	if stale {
		sql += pgschema.Fill(rollupStaleSQL, "table", t.ident, "stale", columnStale)
	}
	return sql
}

// Create creates the table and its unique key if they are missing, and checks existing ones: a
// difference is a [*DriftError]. It also checks that every sum is exact, that Postgres can hash the
// values of every sketch, and that the role has the privileges to merge. Rollup.From must exist: if
// it is a target that staging creates (staging.Config.Create), call Create after staging.New and
// before the first promotion. A new roll-up is empty: if From already has rows, call
// [Rollup.Rebuild] once.
func (r Rollup) Create(ctx context.Context, db DB) error { return r.ensure(ctx, db, "create", true) }

// Verify checks what Create checks, and creates nothing: a missing object is an [ErrMissing].
func (r Rollup) Verify(ctx context.Context, db DB) error { return r.ensure(ctx, db, "verify", false) }

func (r Rollup) ensure(ctx context.Context, db DB, what string, create bool) error {
	if err := r.Validate(); err != nil {
		return err
	}
	return r.tx(ctx, db, what, func(tx pgx.Tx) error {
		if err := r.lockDictionaries(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "headrace/rollup/"+r.Table); err != nil {
			return &contextError{"wait for another process that creates roll-up " + r.Table, err}
		}
		tables, from := r.parts(), mustParse(r.From)
		names := []pgschema.Name{from}
		for _, p := range tables {
			names = append(names, p.name)
		}
		objects, err := lookUp(ctx, tx, names)
		if err != nil {
			return err
		}
		if err := r.checkPrivileges(objects[1:], tables, create); err != nil {
			return err
		}
		if objects[0].OID == 0 {
			return fmt.Errorf("%w: table %s, from which roll-up %s is computed", ErrMissing, from, r.Table)
		}
		if err := r.checkSource(objects[0]); err != nil {
			return err
		}
		checks := []func(context.Context, pgx.Tx) error{r.checkExpressions, r.checkDomains, r.checkOperators, r.checkExact, r.checkGrouping, r.checkExtremes, r.checkSketches}
		if r.Replaces { // its merges recompute groups from the table
			checks = append(checks, r.checkVisible)
		}
		for _, check := range checks {
			if err := check(ctx, tx); err != nil {
				return err
			}
		}
		if err := r.ensureTables(ctx, tx, tables, objects[1:], create); err != nil || objects[1].OID == 0 {
			return err
		}
		return r.checkContents(ctx, tx)
	})
}

// ensureTables creates what is missing and compares the rest.
func (r Rollup) ensureTables(ctx context.Context, tx pgx.Tx, tables []part, objects []object, create bool) error {
	for i, p := range tables {
		if objects[i].OID == 0 {
			continue
		}
		if err := r.compareTable(ctx, tx, p); err != nil {
			return err
		}
		if err := r.checkFit(ctx, tx, p); err != nil {
			return err
		}
		if i > 0 && p.sets == "" {
			if err := r.checkNeighbors(ctx, tx, p); err != nil {
				return err
			}
		}
		if i == 0 {
			if err := r.checkDefinition(ctx, tx, objects[0], create); err != nil {
				return err
			}
		}
	}
	if err := r.checkDictionaries(ctx, tx, tables, objects); err != nil {
		return err
	}
	for i, p := range tables {
		var err error
		if objects[i].OID == 0 {
			if _, err = tx.Exec(ctx, p.create); err == nil && i == 0 {
				err = r.recordNow(ctx, tx, true)
			}
		} else {
			err = p.ensureKeyAndIdentity(ctx, tx, objects[i].Owner && create)
		}
		if err == nil {
			err = p.checkPublished(ctx, tx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lockDictionaries waits for another process that creates a roll-up with the same dictionary.
func (r Rollup) lockDictionaries(ctx context.Context, tx pgx.Tx) error {
	shared, err := dictionariesOf([]Rollup{r})
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(shared)) {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "headrace/dictionary/"+name); err != nil {
			return &contextError{"wait for another process that creates dictionary " + name, err}
		}
	}
	return nil
}

// part is one of the roll-up's tables.
type part struct {
	what   string
	name   pgschema.Name
	table  table
	create string
	nulls  string // a query that has its columns
	types  []column
	sets   string // of a dictionary: the table that holds its numbers, which is the next part
}

// column is a column with its type, which may name a collation.
type column struct{ name, typ string }

func (p part) String() string { return p.what + " " + p.name.String() }

func (r Rollup) checkPrivileges(objects []object, tables []part, create bool) error {
	var n needs
	for i, o := range objects {
		n.schema(tables[i].name, o, tables[i].what)
	}
	if len(n.missing) > 0 && !create {
		return fmt.Errorf("%w: %s (Verify creates nothing: apply the schema that Rollup.SQL returns)", ErrMissing, strings.Join(n.missing, ", "))
	}
	for i, o := range objects {
		if o.OID == 0 {
			continue
		}
		if o.Kind != "r" && o.Kind != "p" {
			return anotherKind(tables[i].String(), o)
		}
		table := "TABLE " + tables[i].name.String()
		n.privilege(o.MaySelect, "SELECT", table)
		n.privilege(o.MayInsert, "INSERT", table)
		n.privilege(o.MayUpdate, "UPDATE", table)
		if r.Replaces {
			n.privilege(o.MayDelete, "DELETE", table)
		}
	}
	return lacking(n.role, n.lacks, n.owners)
}

// compareTable compares the columns. Postgres reads the types, so that two spellings of a type are
// the same.
func (r Rollup) compareTable(ctx context.Context, tx pgx.Tx, p part) error {
	have, err := describe(ctx, tx, "SELECT * FROM "+p.table.ident)
	if err != nil {
		return err
	}
	want, err := describe(ctx, tx, p.nulls)
	if err != nil {
		return err
	}
	diffs := columnDiffs(have, want)
	if len(diffs) == 0 {
		if diffs, err = p.collationDiffs(ctx, tx); err != nil {
			return err
		}
		generated, err := r.generatedDiffs(ctx, tx, p)
		if err != nil {
			return err
		}
		diffs = append(diffs, generated...)
	}
	if len(diffs) > 0 {
		return &DriftError{
			Object: p.String(), Differences: diffs,
			Fix: "DROP TABLE " + p.table.ident + ", then Create and Rebuild, or change the definition back",
		}
	}
	return nil
}

// collationDiffs names the columns whose collation is another than that of their type: the unique
// index compares keys by it.
func (p part) collationDiffs(ctx context.Context, tx pgx.Tx) (diffs []string, err error) {
	var columns, collations []string
	for _, c := range p.types {
		columns = append(columns, c.name)
		// The name of a collation has that collation, and an array has one for all its elements.
		collations = append(collations, "(CASE WHEN (SELECT t.typcollation <> 0 FROM pg_type t WHERE t.oid = pg_typeof(NULL::"+c.typ+
			")) THEN pg_collation_for(NULL::"+c.typ+`) END) COLLATE "C"`)
	}
	var have, want []*string
	sql := pgschema.Fill(rollupCollationsSQL, "collations", join(collations))
	if err := tx.QueryRow(ctx, sql, p.table.ident, columns).Scan(&have, &want); err != nil {
		return nil, err
	}
	for i, c := range p.types {
		if h, w := have[i], want[i]; h != nil && w != nil && *h != *w {
			diffs = append(diffs, fmt.Sprintf("column %s has the collation %s, the definition has %s", pgschema.Quote(c.name), *h, *w))
		}
	}
	return diffs, nil
}

// generatedDiffs names the columns that the roll-up would generate and that are plain ones: no
// merge writes them.
func (r Rollup) generatedDiffs(ctx context.Context, tx pgx.Tx, p part) (diffs []string, err error) {
	var generated []string
	for _, s := range r.allColumns() {
		if s.generated != "" {
			generated = append(generated, s.name)
		}
	}
	if p.table.ident != ident(r.Table) || len(generated) == 0 {
		return nil, nil
	}
	rows, err := tx.Query(ctx, `SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = ANY ($2) AND attgenerated = '' ORDER BY attnum`,
		p.table.ident, generated)
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, n := range names {
		diffs = append(diffs, "column "+pgschema.Quote(n)+" is not generated any more")
	}
	return diffs, err
}

// types are the types of the columns.
func (r Rollup) types() []column {
	var out []column
	for _, c := range r.GroupBy {
		out = append(out, column{c.Name, c.Type})
	}
	for _, s := range r.allColumns() {
		out = append(out, column{s.name, s.typ})
	}
	return out
}

// types are those of the key and of the value.
func (v values) types() []column {
	var out []column
	for _, c := range v.r.GroupBy {
		out = append(out, column{c.Name, c.Type + collated(c.Type)})
	}
	return append(out, v.valueType())
}

func (v values) valueType() column {
	return column{columnValue, v.measure().Type + collated(v.measure().Type)}
}

// nulls is a query that has the columns of the roll-up.
func (r Rollup) nulls() string {
	var columns []string
	for _, c := range r.GroupBy {
		columns = append(columns, "NULL::"+c.Type+" AS "+pgschema.Quote(c.Name))
	}
	for _, s := range r.allColumns() {
		columns = append(columns, "NULL::"+s.typ+" AS "+pgschema.Quote(s.name))
	}
	return "SELECT " + strings.Join(columns, ", ")
}

func (v values) nulls() string {
	columns := append(v.nullKeys(), "NULL::"+v.measure().Type+" AS "+columnValue)
	if v.r.Replaces {
		columns = append(columns, "0::bigint AS "+columnCount, "0::bigint AS "+columnChange, "false AS "+columnStale)
	}
	return "SELECT " + strings.Join(columns, ", ")
}

// ensureKeyAndIdentity finds or creates the unique index that ON CONFLICT needs and the replica
// identity that a publication needs. Without NULLS NOT DISTINCT each promotion would add one more
// row for the group whose key is NULL.
func (p part) ensureKeyAndIdentity(ctx context.Context, tx pgx.Tx, change bool) error {
	var key bool
	if err := tx.QueryRow(ctx, hasUniqueSQL, p.table.ident, slices.Sorted(slices.Values(unquoted(p.table.keys))), true).Scan(&key); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, rollupIdentitySQL, p.table.ident)
	if err != nil {
		return err
	}
	without, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	var diffs, fixes []string
	if !key {
		diffs = append(diffs, "it has no unique index on ("+join(p.table.keys)+") that takes two NULLs for equal")
		fixes = append(fixes, "CREATE UNIQUE INDEX ON "+p.table.ident+" ("+join(p.table.keys)+") NULLS NOT DISTINCT")
	}
	if len(without) > 0 {
		diffs = append(diffs, "without a replica identity ("+join(without)+"), a publication of its updates would refuse every merge")
	}
	for _, table := range without {
		fixes = append(fixes, "ALTER TABLE "+table+" REPLICA IDENTITY FULL")
	}
	if len(fixes) > 0 && change {
		_, err := tx.Exec(ctx, strings.Join(fixes, "; "))
		return err
	}
	if len(fixes) > 0 {
		return &DriftError{Object: p.String(), Differences: diffs, Fix: "as its owner: " + strings.Join(fixes, "; ")}
	}
	return nil
}

// unquoted takes the quotes off again.
func unquoted(quoted []string) []string {
	out := make([]string, len(quoted))
	for i, q := range quoted {
		out[i] = q
		if strings.HasPrefix(q, `"`) {
			out[i] = strings.ReplaceAll(q[1:len(q)-1], `""`, `"`)
		}
	}
	return out
}
