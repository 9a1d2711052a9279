package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/staging"
)

// Roles are the programs that need privileges in Postgres, by name.
var Roles = map[string]staging.Role{
	"all": staging.RoleAll, "worker": staging.RoleWorker, "promoter": staging.RolePromoter, "reader": staging.RoleReader,
}

// Program is what the names of a pipeline do not tell about a program that loads its table.
type Program struct {
	Role    staging.Role
	Columns []string // that it loads; nil: those of the staging tables, or else all of the target
	Replace bool     // it updates rows whose key is in the table
	Lanes   int      // of staging tables; 0: as many as the table has
}

// config is a configuration for the table without its row type.
func (p Program) config(ctx context.Context, pool *pgxpool.Pool, table string) (staging.Config[struct{}], error) {
	cfg := staging.Config[struct{}]{NoCreate: true, Role: p.Role, Lanes: p.Lanes, Fill: func(*struct{}, *staging.Row) {}}
	columns := p.Columns
	if columns == nil {
		var err error
		if columns, err = loadedColumns(ctx, pool, table); err != nil {
			return cfg, err
		}
	}
	for _, c := range columns {
		cfg.Columns = append(cfg.Columns, staging.Column{Name: c})
	}
	return cfg, nil
}

// loadedColumns reads the columns that the programs load into a table: those of its staging tables.
// Where there are none yet, it returns all columns that an INSERT may fill.
func loadedColumns(ctx context.Context, pool *pgxpool.Pool, table string) ([]string, error) {
	name, err := pgschema.ParseName(table)
	if err != nil {
		return nil, fmt.Errorf("ops: the name of the table is %q, %w", table, err)
	}
	rows, err := pool.Query(ctx, `
		WITH target AS (SELECT oid, relnamespace FROM pg_class WHERE oid = to_regclass(@table))
		SELECT a.attname::text
		FROM target t JOIN pg_attribute a
		  ON a.attrelid = coalesce((SELECT s.oid FROM pg_class s WHERE s.relnamespace = t.relnamespace AND s.relname = @staging), t.oid)
		WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity <> 'a' AND a.attname <> 'hr_record'
		ORDER BY a.attnum`, pgx.NamedArgs{"table": name.String(), "staging": name.With("_staging_a").Table})
	if err != nil {
		return nil, fmt.Errorf("ops: %w", err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("ops: %w", err)
	}
	if len(columns) == 0 {
		return nil, noTable(pool, name.String())
	}
	return columns, nil
}

// CompanionSQL returns the schema of the companion tables of an existing table, for a migration
// tool.
func CompanionSQL(ctx context.Context, pool *pgxpool.Pool, table string, p Program) (string, error) {
	cfg, err := p.config(ctx, pool, table)
	if err != nil {
		return "", err
	}
	return staging.SQL(ctx, pool, table, cfg)
}

// ViewsSQL returns the schema of a set of views as the database has it; "" if there is no such set.
func ViewsSQL(ctx context.Context, pool *pgxpool.Pool, set string) (string, error) {
	s, err := openSet(ctx, pool, set)
	if err != nil || len(s.views) == 0 {
		return "", err
	}
	return matview.SQL(set, matview.Config{Views: s.views})
}

// Check compares the tables and views of a pipeline with what a program of this version expects. It
// creates nothing. The error names the first difference. views is false if the database does not
// have the set of views. A worker has nothing to do with them.
func Check(ctx context.Context, pool *pgxpool.Pool, names Names, p Program) (views bool, err error) {
	cfg, err := p.config(ctx, pool, names.Table)
	if err != nil {
		return false, err
	}
	if _, err := staging.New(ctx, pool, names.Table, cfg); err != nil || p.Role == staging.RoleWorker {
		return false, err
	}
	s, err := openSet(ctx, pool, names.Views)
	switch {
	case err != nil || !s.found:
		return false, err
	case len(s.gone) > 0:
		return true, fmt.Errorf("%w: views %s of the set %s", matview.ErrMissing, strings.Join(s.gone, ", "), names.Views)
	case p.Role == staging.RoleReader:
		return true, nil // it does not refresh them
	}
	_, err = matview.New(ctx, pool, names.Views, matview.Config{Views: s.views, NoCreate: true})
	return true, err
}

// Grants returns the statements that give a database role what a program needs in the tables and
// views of a pipeline that exists. It cannot know the roll-ups that a program merges into, and the
// tables of its lookups.
func Grants(ctx context.Context, pool *pgxpool.Pool, names Names, p Program, to string) (string, error) {
	cfg, err := p.config(ctx, pool, names.Table)
	if err != nil {
		return "", err
	}
	sql, err := staging.Grants(ctx, pool, names.Table, cfg, to)
	if err != nil {
		return "", err
	}
	if p.Replace {
		table, err := pgschema.ParseName(names.Table)
		if err != nil {
			return "", err
		}
		sql += "GRANT UPDATE ON TABLE " + table.String() + " TO " + pgschema.Quote(to) + ";\n"
	}
	more, err := MoreGrants(ctx, pool, names, p.Role, to)
	return sql + more, err
}

// MoreGrants returns the statements for what is not in the tables of package staging: the set
// of views, and for a reader the rows of the table, which find looks through. Only the owner of a
// view may refresh it, so a promoter becomes that. A concurrent refresh makes temporary tables.
func MoreGrants(ctx context.Context, pool *pgxpool.Pool, names Names, role staging.Role, to string) (string, error) {
	if role == staging.RoleWorker {
		return "", nil
	}
	table, err := pgschema.ParseName(names.Table)
	if err != nil {
		return "", fmt.Errorf("ops: the name of the table is %q, %w", names.Table, err)
	}
	var b strings.Builder
	grant := func(privileges string, on pgschema.Name) {
		fmt.Fprintf(&b, "GRANT %s ON TABLE %s TO %s;\n", privileges, on, pgschema.Quote(to))
	}
	if role == staging.RoleReader {
		grant("SELECT", table)
	}
	s, err := openSet(ctx, pool, names.Views)
	if err != nil || !s.found {
		return b.String(), err
	}
	if role == staging.RoleReader {
		grant("SELECT", s.state)
		return b.String(), nil
	}
	var database string
	if err := pool.QueryRow(ctx, "SELECT current_database()").Scan(&database); err != nil {
		return "", fmt.Errorf("ops: %w", err)
	}
	fmt.Fprintf(&b, "GRANT TEMPORARY ON DATABASE %s TO %s;\n", pgschema.Quote(database), pgschema.Quote(to))
	grant("SELECT, INSERT, UPDATE", s.state)
	for _, v := range s.views {
		name, err := pgschema.ParseName(v.Name)
		if err != nil {
			return "", fmt.Errorf("ops: the name of a view is %q, %w", v.Name, err)
		}
		fmt.Fprintf(&b, "ALTER MATERIALIZED VIEW %s OWNER TO %s;\n", name, pgschema.Quote(to))
	}
	return b.String(), nil
}

// viewSet is a set of views as the database has it.
type viewSet struct {
	found bool
	state pgschema.Name  // its state table
	views []matview.View // in dependency order; each depends on all before it
	gone  []string       // views of the set that were dropped
}

func openSet(ctx context.Context, pool *pgxpool.Pool, set string) (s viewSet, err error) {
	r, err := matview.Open(ctx, pool, set, matview.Config{})
	switch {
	case errors.Is(err, matview.ErrMissing):
		return s, nil
	case err != nil:
		return s, err
	}
	list, err := r.Freshness(ctx)
	if err != nil {
		return s, err
	}
	name, err := pgschema.ParseName(set)
	if err != nil {
		return s, fmt.Errorf("ops: the name of the set of views is %q, %w", set, err)
	}
	s.found, s.state = true, name.With("_views")
	// A view's unique index is the oldest one that a concurrent refresh can use.
	rows, err := pool.Query(ctx, `
		SELECT s.name, s.definition, coalesce((
		    SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(att, n)
		                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.att
		                 WHERE k.n <= i.indnkeyatts ORDER BY k.n)
		    FROM pg_index i
		    WHERE i.indrelid = s.view AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
		    ORDER BY i.indexrelid LIMIT 1), '{}')
		FROM `+s.state.String()+` s ORDER BY s.name`)
	if err != nil {
		return s, fmt.Errorf("ops: %w", err)
	}
	known := make(map[string]matview.View)
	var v matview.View
	if _, err := pgx.ForEachRow(rows, []any{&v.Name, &v.SQL, &v.UniqueIndex}, func() error {
		known[v.Name] = v
		if !slices.ContainsFunc(list, func(f matview.Freshness) bool { return f.View == v.Name }) {
			s.gone = append(s.gone, v.Name)
		}
		v = matview.View{}
		return nil
	}); err != nil {
		return s, fmt.Errorf("ops: %w", err)
	}
	var before []string
	for _, f := range list {
		v := known[f.View]
		v.DependsOn = slices.Clone(before)
		s.views, before = append(s.views, v), append(before, v.Name)
	}
	return s, nil
}
