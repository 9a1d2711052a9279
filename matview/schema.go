package matview

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// layout is the version of the state table. It is in the table's comment.
const layout = "headrace matview schema 1"

var (
	//go:embed state.sql
	stateSQL string
	//go:embed define.sql
	defineSQL string
	//go:embed objects.sql
	objectsSQL string
	//go:embed refresh_needs.sql
	refreshNeedsSQL string
	//go:embed has_unique.sql
	hasUniqueSQL string
)

// SQL returns the schema of a set of views for a migration tool: the state table, the views without
// their data, and their indexes. A Refresher with Config.NoCreate accepts what it creates. The text
// begins with the version of the layout. Run it once, as the role that refreshes, or as a role that
// the refreshing role is a member of: only the owner may REFRESH (since PostgreSQL 17, MAINTAIN is
// enough).
func SQL(name string, cfg Config) (string, error) {
	state, err := stateTable(name)
	if err != nil {
		return "", err
	}
	if err := cfg.withDefaults().check(); err != nil {
		return "", err
	}
	views, err := declared(cfg.Views).order(cfg.Views)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "-- %s: the set of views %s\n%s", layout, name, createState(state.String()))
	for _, v := range views {
		fmt.Fprintf(&b, "\n%s;\n", createView(v))
		if len(v.UniqueIndex) > 0 {
			fmt.Fprintf(&b, "%s;\n", createIndex(v))
		}
		b.WriteString(define(state.String(), v))
	}
	return b.String(), nil
}

func createState(state string) string {
	return pgschema.Fill(stateSQL, "state", state, "layout", layout)
}

// createView ends the query with a line break, which ends a comment in which the query may end.
func createView(v View) string {
	return "CREATE MATERIALIZED VIEW " + v.ident() + " AS " + v.query() + "\nWITH NO DATA"
}

func createIndex(v View) string {
	return "CREATE UNIQUE INDEX ON " + v.ident() + " (" + strings.Join(pgschema.QuoteAll("", v.UniqueIndex), ", ") + ")"
}

func define(state string, v View) string {
	return pgschema.Fill(defineSQL, "state", state, "name", pgschema.Literal(v.Name), "view", pgschema.Literal(v.ident()),
		"definition", pgschema.Literal(v.query()))
}

// object is what exists in the database under a name, and what the role may do with it.
type object struct {
	Role         string
	Schema       string // "" if it does not exist
	SchemaUsage  bool
	SchemaCreate bool
	OID          uint32 // 0: nothing has the name
	Kind         string // pg_class.relkind
	Owner        bool   // the role has the rights of the owner
	MaySelect    bool
	MayRead      bool // some of its columns
	MayInsert    bool
	MayUpdate    bool
	MayDelete    bool
	MayMaintain  bool // the privilege of PostgreSQL 17
	Comment      string
}

func lookUp(ctx context.Context, tx pgx.Tx, names []pgschema.Name) ([]object, error) {
	var idents, schemas []string
	for _, n := range names {
		idents, schemas = append(idents, n.String()), append(schemas, n.Schema)
	}
	rows, err := tx.Query(ctx, objectsSQL, idents, schemas)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[object])
}

// needs collects what the role lacks and what is not there.
type needs struct {
	role    string
	lacks   []pgschema.Lack
	owners  []string // objects that must belong to the role
	missing []string
}

func (n *needs) privilege(has bool, privilege, object string) {
	if !has {
		n.lacks = append(n.lacks, pgschema.Lack{Privilege: privilege, Object: object, Role: n.role})
	}
}

// schema checks the schema of an object, and that the role can create the object if it is not
// there.
func (n *needs) schema(name pgschema.Name, o object, what string) {
	n.role = o.Role
	schema := "SCHEMA " + pgschema.Quote(o.Schema)
	switch {
	case o.Schema == "" && name.Schema == "":
		n.missing = append(n.missing, "a schema of the search path to create "+name.String()+" in")
	case o.Schema == "":
		n.missing = append(n.missing, "schema "+pgschema.Quote(name.Schema))
	case !o.SchemaUsage:
		n.privilege(false, "USAGE", schema)
	case o.OID == 0:
		n.privilege(o.SchemaCreate, "CREATE", schema)
		n.missing = append(n.missing, what+" "+name.String())
	}
}

// install creates what is missing and checks the rest, in one transaction. It returns the names of
// the views it created.
func (r *Refresher) install(ctx context.Context) (created []string, err error) {
	err = r.begin(ctx, func(tx pgx.Tx) error {
		if err := refuseShadows(ctx, tx); err != nil {
			return err
		}
		// IF NOT EXISTS alone is no protection: two sessions that create the same name at once
		// collide in the catalogue.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "headrace/matview/"+r.state); err != nil {
			return &contextError{"wait for another process that creates views", err}
		}
		names, err := r.names()
		if err != nil {
			return err
		}
		objects, err := lookUp(ctx, tx, names)
		if err != nil {
			return err
		}
		if err := r.checkObjects(ctx, tx, names, objects); err != nil {
			return err
		}
		if objects[0].OID == 0 {
			if _, err := tx.Exec(ctx, createState(r.state)); err != nil {
				return &contextError{"create " + r.state, err}
			}
		}
		if created, err = r.createViews(ctx, tx, objects[1:]); err != nil {
			return err
		}
		for i, v := range r.views {
			if objects[i+1].OID != 0 {
				if err := r.compareView(ctx, tx, v); err != nil {
					return explain(err, "compare view %s", v.Name)
				}
			}
			if err := ensureIndex(ctx, tx, v); err != nil {
				return err
			}
		}
		if err := r.refreshable(ctx, tx); err != nil {
			return err
		}
		if err := r.deps.readCatalogue(ctx, tx, r.views); err != nil {
			return err
		}
		r.views, err = r.deps.order(r.views)
		return err
	})
	return created, err
}

// checkObjects checks what exists, and that the role can create what does not.
func (r *Refresher) checkObjects(ctx context.Context, tx pgx.Tx, names []pgschema.Name, objects []object) error {
	var n needs
	for i, o := range objects {
		what := "materialized view"
		if i == 0 {
			what = "table"
		}
		n.schema(names[i], o, what)
		switch {
		case o.OID == 0:
		case i == 0:
			if err := checkState(r.state, o); err != nil {
				return err
			}
			table := "TABLE " + r.state
			n.privilege(o.MaySelect, "SELECT", table)
			n.privilege(o.MayInsert, "INSERT", table)
			n.privilege(o.MayUpdate, "UPDATE", table)
		default:
			if err := r.checkView(ctx, tx, r.views[i-1], o, &n); err != nil {
				return err
			}
		}
	}
	if len(n.missing) > 0 && r.cfg.NoCreate {
		return fmt.Errorf("%w: %s (Config.NoCreate is set: apply the schema that SQL returns)", ErrMissing, strings.Join(n.missing, ", "))
	}
	return lacking(n.role, n.lacks, n.owners)
}

func checkState(state string, o object) error {
	if o.Kind != "r" && o.Kind != "p" {
		return anotherKind("table "+state, o)
	}
	if o.Comment != layout {
		return &DriftError{
			Object: "table " + state, Differences: []string{fmt.Sprintf("its comment is %q, this program's layout is %q", o.Comment, layout)},
			Fix: "run programs of one version, or drop the table: it is created again, and every view is refreshed once",
		}
	}
	return nil
}

func anotherKind(name string, o object) error {
	return &DriftError{
		Object: name, Differences: []string{"another kind of object (pg_class.relkind " + o.Kind + ") has that name"},
		Fix: "choose another name",
	}
}

func (r *Refresher) checkView(ctx context.Context, tx pgx.Tx, v View, o object, n *needs) error {
	if o.Kind != "m" {
		return anotherKind("materialized view "+v.Name, o)
	}
	view := "MATERIALIZED VIEW " + v.ident()
	indexed, err := hasIndex(ctx, tx, v)
	if err != nil {
		return err
	}
	if !indexed {
		n.missing = append(n.missing, "a unique index of "+v.ident()+" on ("+strings.Join(v.UniqueIndex, ", ")+")")
	}
	if !o.Owner && (!o.MayMaintain || !indexed && !r.cfg.NoCreate) {
		n.owners = append(n.owners, view)
	}
	return nil
}

// createViews creates the views that are missing. Which view reads which is known for certain only
// afterwards, so one whose query names a relation that does not exist yet is tried again after the
// others.
func (r *Refresher) createViews(ctx context.Context, tx pgx.Tx, objects []object) (created []string, err error) {
	var todo []View
	for i, v := range r.views {
		if objects[i].OID == 0 {
			todo = append(todo, v)
		}
	}
	for len(todo) > 0 {
		var failed []View
		var cause error
		for _, v := range todo {
			err := attempt(ctx, tx, func() error {
				if _, err := tx.Exec(ctx, createView(v)); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, define(r.state, v))
				return err
			})
			switch {
			case err == nil:
				created = append(created, v.Name)
			case sqlState(err) == undefinedTable:
				failed = append(failed, v)
				cause = errors.Join(cause, &contextError{"create view " + v.Name, err})
			default:
				return nil, ofView(v.Name, err)
			}
		}
		if len(failed) == len(todo) {
			return nil, cause
		}
		slices.Reverse(failed) // views that were given from the top down are created in two rounds
		todo = failed
	}
	return created, nil
}

// The SQLSTATEs about a relation that does not exist, and about a missing privilege.
const (
	undefinedTable        = "42P01"
	insufficientPrivilege = "42501"
)

func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// hasIndex is true for a view that needs no index.
func hasIndex(ctx context.Context, tx pgx.Tx, v View) (exists bool, err error) {
	if len(v.UniqueIndex) == 0 {
		return true, nil
	}
	if err := tx.QueryRow(ctx, hasUniqueSQL, v.ident(), slices.Sorted(slices.Values(v.UniqueIndex)), false).Scan(&exists); err != nil {
		return false, &contextError{"look up the index of view " + v.Name, err}
	}
	return exists, nil
}

// ensureIndex creates the unique index of a view unless it has one on these columns, in any order.
func ensureIndex(ctx context.Context, tx pgx.Tx, v View) error {
	exists, err := hasIndex(ctx, tx, v)
	if err != nil || exists {
		return err
	}
	if _, err := tx.Exec(ctx, createIndex(v)); err != nil {
		return &contextError{fmt.Sprintf("create the unique index of view %s on (%s)", v.Name, strings.Join(v.UniqueIndex, ", ")), err}
	}
	return nil
}

// refreshable checks what the owners of the views need: the first refresh would find out too late.
func (r *Refresher) refreshable(ctx context.Context, tx pgx.Tx) error {
	_, idents := namesOf(r.views)
	rows, err := tx.Query(ctx, refreshNeedsSQL, idents)
	if err != nil {
		return err
	}
	lacks, err := pgx.CollectRows(rows, pgx.RowToStructByPos[pgschema.Lack])
	if err != nil || len(lacks) == 0 {
		return err
	}
	return lacking(lacks[0].Role, lacks, nil)
}

// names are those of the state table and of the views, in this order.
func (r *Refresher) names() ([]pgschema.Name, error) {
	state, err := pgschema.ParseName(r.state)
	if err != nil {
		return nil, err
	}
	names := []pgschema.Name{state}
	for _, v := range r.views {
		n, err := pgschema.ParseName(v.Name)
		if err != nil {
			return nil, err
		}
		names = append(names, n)
	}
	return names, nil
}

// withGrants adds the GRANT that helps to the error of a refresh that was refused: a privilege was
// revoked after New had checked it.
func (r *Refresher) withGrants(ctx context.Context, v View, refused error) error {
	if sqlState(refused) != insufficientPrivilege {
		return refused
	}
	one := &Refresher{pool: r.pool, cfg: r.cfg, state: r.state, views: []View{v}}
	one.cfg.NoCreate = false // only privileges matter here
	err := r.begin(ctx, func(tx pgx.Tx) error {
		names, err := one.names()
		if err != nil {
			return err
		}
		objects, err := lookUp(ctx, tx, names)
		if err != nil {
			return err
		}
		if err := one.checkObjects(ctx, tx, names, objects); err != nil {
			return err
		}
		return one.refreshable(ctx, tx)
	})
	if errors.Is(err, ErrPrivilege) {
		return fmt.Errorf("%w: %w", err, refused)
	}
	return refused // SQL of the view was refused for another reason
}
