package matview

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
)

var (
	//go:embed rollup_table.sql
	rollupTableSQL string
	//go:embed rollup_identity.sql
	rollupIdentitySQL string
)

// SQL returns the schema of the roll-up for a migration tool. [Rollup.Verify] accepts what it
// creates. A role that promotes needs SELECT, INSERT and UPDATE on the table, one that rebuilds it
// DELETE too.
func (r Rollup) SQL() (string, error) {
	if err := r.Validate(); err != nil {
		return "", err
	}
	return "-- headrace roll-up schema 1: " + r.Table + "\n" + r.createTable(), nil
}

func (r Rollup) createTable() string {
	var columns []string
	for _, c := range r.GroupBy {
		columns = append(columns, pgschema.Quote(c.Name)+" "+c.Type)
	}
	for _, m := range r.Measures {
		columns = append(columns, pgschema.Quote(m.Name)+" "+m.sqlType())
	}
	return pgschema.Fill(rollupTableSQL, "rollup", ident(r.Table), "columns", strings.Join(columns, ", "),
		"keys", strings.Join(r.keys(""), ", "))
}

// Create creates the table and its unique key if they are missing, and checks existing ones: a
// difference is a [*DriftError]. It also checks that every sum is exact, and that the role has the
// privileges to merge. Rollup.From must exist. A new roll-up is empty: if From already has rows,
// call [Rollup.Rebuild] once.
func (r Rollup) Create(ctx context.Context, db DB) error { return r.ensure(ctx, db, "create", true) }

// Verify checks what Create checks, and creates nothing: a missing object is an [ErrMissing].
func (r Rollup) Verify(ctx context.Context, db DB) error { return r.ensure(ctx, db, "verify", false) }

func (r Rollup) ensure(ctx context.Context, db DB, what string, create bool) error {
	if err := r.Validate(); err != nil {
		return err
	}
	return r.tx(ctx, db, what, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "headrace/rollup/"+r.Table); err != nil {
			return &contextError{"wait for another process that creates roll-up " + r.Table, err}
		}
		table, err := pgschema.ParseName(r.Table)
		if err != nil {
			return err
		}
		from, err := pgschema.ParseName(r.From)
		if err != nil {
			return err
		}
		objects, err := lookUp(ctx, tx, []pgschema.Name{table, from})
		if err != nil {
			return err
		}
		rollup := objects[0]
		if err := r.checkPrivileges(rollup, table, create); err != nil {
			return err
		}
		if objects[1].OID == 0 {
			return fmt.Errorf("%w: table %s, from which roll-up %s is computed", ErrMissing, from, r.Table)
		}
		if err := r.checkExact(ctx, tx); err != nil {
			return err
		}
		if rollup.OID == 0 {
			_, err := tx.Exec(ctx, r.createTable())
			return err
		}
		if err := r.compareTable(ctx, tx); err != nil {
			return err
		}
		return r.ensureKeyAndIdentity(ctx, tx, rollup.Owner && create)
	})
}

func (r Rollup) checkPrivileges(o object, name pgschema.Name, create bool) error {
	var n needs
	n.schema(name, o, "roll-up")
	if len(n.missing) > 0 && !create {
		return fmt.Errorf("%w: %s (Verify creates nothing: apply the schema that Rollup.SQL returns)", ErrMissing, strings.Join(n.missing, ", "))
	}
	if o.OID != 0 {
		if o.Kind != "r" && o.Kind != "p" {
			return anotherKind("roll-up "+r.Table, o)
		}
		table := "TABLE " + name.String()
		n.privilege(o.MaySelect, "SELECT", table)
		n.privilege(o.MayInsert, "INSERT", table)
		n.privilege(o.MayUpdate, "UPDATE", table)
	}
	return lacking(n.role, n.lacks, n.owners)
}

// compareTable compares the columns. Postgres reads the types, so that two spellings of a type are
// the same.
func (r Rollup) compareTable(ctx context.Context, tx pgx.Tx) error {
	have, err := describe(ctx, tx, "SELECT * FROM "+ident(r.Table))
	if err != nil {
		return err
	}
	want, err := describe(ctx, tx, r.nulls())
	if err != nil {
		return err
	}
	if diffs := columnDiffs(have, want); len(diffs) > 0 {
		return &DriftError{
			Object: "roll-up " + r.Table, Differences: diffs,
			Fix: "DROP TABLE " + ident(r.Table) + ", then Create and Rebuild, or change the definition back",
		}
	}
	return nil
}

// nulls is a query that has the columns of the roll-up.
func (r Rollup) nulls() string {
	var columns []string
	for _, c := range r.GroupBy {
		columns = append(columns, "NULL::"+c.Type+" AS "+pgschema.Quote(c.Name))
	}
	for _, m := range r.Measures {
		columns = append(columns, "NULL::"+m.sqlType()+" AS "+pgschema.Quote(m.Name))
	}
	return "SELECT " + strings.Join(columns, ", ")
}

// ensureKeyAndIdentity finds or creates the unique index that ON CONFLICT needs and the replica
// identity that a publication needs. Without NULLS NOT DISTINCT each promotion would add one more
// row for the group whose key is NULL.
func (r Rollup) ensureKeyAndIdentity(ctx context.Context, tx pgx.Tx, change bool) error {
	var names []string
	for _, c := range r.GroupBy {
		names = append(names, c.Name)
	}
	var key, identity bool
	if err := tx.QueryRow(ctx, hasUniqueSQL, ident(r.Table), slices.Sorted(slices.Values(names)), true).Scan(&key); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, rollupIdentitySQL, ident(r.Table)).Scan(&identity); err != nil {
		return err
	}
	var diffs, fixes []string
	if !key {
		diffs = append(diffs, "it has no unique index on ("+strings.Join(r.keys(""), ", ")+") that takes two NULLs for equal")
		fixes = append(fixes, "CREATE UNIQUE INDEX ON "+ident(r.Table)+" ("+strings.Join(r.keys(""), ", ")+") NULLS NOT DISTINCT")
	}
	if !identity {
		diffs = append(diffs, "it has no replica identity, so a publication of its updates would refuse every merge")
		fixes = append(fixes, "ALTER TABLE "+ident(r.Table)+" REPLICA IDENTITY FULL")
	}
	if len(fixes) > 0 && change {
		_, err := tx.Exec(ctx, strings.Join(fixes, "; "))
		return err
	}
	if len(fixes) > 0 {
		return &DriftError{Object: "roll-up " + r.Table, Differences: diffs, Fix: "as its owner: " + strings.Join(fixes, "; ")}
	}
	return nil
}
