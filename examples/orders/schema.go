package orders

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/staging"
	"github.com/headrace/headrace/testdata"
)

// SQL returns the schema of the orders domain for a migration tool: tables, roll-ups and views.
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

// Check compares the database with what the programs expect. It creates nothing. The error names
// the first difference.
func Check(ctx context.Context, pg *pgxpool.Pool) error {
	for _, name := range []string{Table, "product_catalog", "currency_rates", "zip_code_zones"} {
		var found bool
		if err := pg.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", name).Scan(&found); err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("orders: the table %s is missing: run the statements of schema print, or start a worker", name)
		}
	}
	for _, r := range Rollups() {
		if err := r.Verify(ctx, pg); err != nil {
			return err
		}
	}
	cfg, err := tableConfig()
	if err != nil {
		return err
	}
	cfg.NoCreate = true
	if _, err := staging.New[Row](ctx, pg, Table, cfg); err != nil {
		return err
	}
	views := viewConfig()
	views.NoCreate = true
	_, err = matview.New(ctx, pg, Name, views)
	return err
}

var createdTable = regexp.MustCompile(`(?m)^CREATE TABLE (\S+) `)

// Roles are the programs that need privileges in Postgres, by name.
var Roles = map[string]staging.Role{"worker": staging.RoleWorker, "promoter": staging.RolePromoter, "all": staging.RoleAll}

// Grants returns the statements that give a database role what a program needs in tables that
// exist. A promoter, and "all", also reads and refreshes the views, which it must own.
func Grants(ctx context.Context, pg *pgxpool.Pool, role, to string) (string, error) {
	cfg, err := tableConfig()
	if err != nil {
		return "", err
	}
	cfg.Role = Roles[role]
	sql, err := staging.Grants[Row](ctx, pg, Table, cfg, to)
	if err != nil {
		return "", err
	}
	grantee := pgx.Identifier{to}.Sanitize()
	sql = strings.TrimRight(sql, "\n") + "\n"
	if role != "promoter" {
		sql += "GRANT SELECT ON product_catalog, currency_rates, zip_code_zones TO " + grantee + ";\n"
	}
	if role != "worker" {
		for _, r := range Rollups() {
			schema, err := r.SQL()
			if err != nil {
				return "", err
			}
			for _, m := range createdTable.FindAllStringSubmatch(schema, -1) { // the roll-up, and its distinct values
				sql += "GRANT SELECT, INSERT, UPDATE ON " + m[1] + " TO " + grantee + ";\n"
			}
		}
		sql += "GRANT SELECT, INSERT, UPDATE ON " + pgx.Identifier{Name + "_views"}.Sanitize() + " TO " + grantee + ";\n"
		for _, v := range Views() {
			sql += "ALTER MATERIALIZED VIEW " + pgx.Identifier{v.Name}.Sanitize() + " OWNER TO " + grantee + ";\n"
		}
	}
	return sql, nil
}
