package orders

import (
	"context"
	"fmt"
	"regexp"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/examples/internal/ops"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/staging"
	"github.com/headrace/headrace/testdata"
)

// SQL returns the schema of the orders domain for a migration tool: tables, roll-ups and views. The
// companion tables of the orders table get the types of its columns, so they are created after it:
// see [ops.CompanionSQL].
func SQL() (string, error) {
	rollups := ""
	for _, r := range Rollups() {
		sql, err := r.SQL()
		if err != nil {
			return "", err
		}
		rollups += sql + "\n"
	}
	views, err := matview.SQL(Name, viewConfig())
	if err != nil {
		return "", err
	}
	return testdata.Schema + "\n" + rollups + views, nil
}

// Check compares the database with what a program of that role expects. It creates nothing. The
// error names the first difference.
func Check(ctx context.Context, pg *pgxpool.Pool, p ops.Program) error {
	for _, name := range []string{Table, "product_catalog", "currency_rates", "zip_code_zones"} {
		var found bool
		if err := pg.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", name).Scan(&found); err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("orders: the table %s is missing: run the statements of schema print, or start a worker", name)
		}
	}
	cfg, err := tableConfig()
	if err != nil {
		return err
	}
	cfg.NoCreate, cfg.Role, cfg.Lanes = true, p.Role, p.Lanes
	if _, err := staging.New[Row](ctx, pg, Table, cfg); err != nil {
		return err
	}
	if p.Role == staging.RoleWorker || p.Role == staging.RoleReader {
		return nil // neither writes the roll-ups nor refreshes the views
	}
	for _, r := range Rollups() {
		if err := r.Verify(ctx, pg); err != nil {
			return err
		}
	}
	views := viewConfig()
	views.NoCreate = true
	_, err = matview.New(ctx, pg, Name, views)
	return err
}

var createdTable = regexp.MustCompile(`(?m)^CREATE TABLE (?:IF NOT EXISTS )?(\S+) `)

// Grants returns the statements that give a database role what a program needs in tables that
// exist. RolePromoter and RoleAll also read and refresh the views, which they must own.
func Grants(ctx context.Context, pg *pgxpool.Pool, p ops.Program, to string) (string, error) {
	cfg, err := tableConfig()
	if err != nil {
		return "", err
	}
	cfg.Role, cfg.Lanes = p.Role, p.Lanes
	sql, err := staging.Grants[Row](ctx, pg, Table, cfg, to)
	if err != nil {
		return "", err
	}
	grantee := pgx.Identifier{to}.Sanitize()
	if p.Role == staging.RoleWorker || p.Role == staging.RoleAll {
		sql += "GRANT SELECT ON product_catalog, currency_rates, zip_code_zones TO " + grantee + ";\n"
	}
	if p.Role == staging.RolePromoter || p.Role == staging.RoleAll {
		for _, r := range Rollups() {
			schema, err := r.SQL()
			if err != nil {
				return "", err
			}
			for _, m := range createdTable.FindAllStringSubmatch(schema, -1) { // the roll-up, and its distinct values
				sql += "GRANT SELECT, INSERT, UPDATE ON " + m[1] + " TO " + grantee + ";\n"
			}
		}
	}
	more, err := ops.MoreGrants(ctx, pg, Names, p.Role, to)
	return sql + more, err
}
