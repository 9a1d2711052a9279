package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/pipeline/console"
)

// doctor checks what a pipeline needs of its servers. It only reads.
type doctor struct{ windowNames }

// Run prints the findings. Its error counts those that are not OK.
func (v *doctor) Run(ctx context.Context, s *session) error {
	redis, err := s.redis(ctx)
	if err != nil {
		return err
	}
	pool, err := s.postgres(ctx)
	if err != nil {
		return err
	}
	checks, err := console.CheckRedis(ctx, redis)
	if err != nil {
		return err
	}
	for _, check := range []func(context.Context, *pgxpool.Pool) ([]console.Check, error){console.CheckPostgres, checkPrivileges} {
		more, err := check(ctx, pool)
		if err != nil {
			return err
		}
		checks = append(checks, more...)
	}
	if bouncer, ok := checkPgBouncer(ctx, pool); ok {
		checks = append(checks, bouncer)
	}
	windows, err := v.check(ctx, redis)
	if err != nil {
		return err
	}
	checks = append(checks, windows...)
	width, _ := program.Width(s.Out)
	text, bad := "", 0
	for _, c := range checks {
		mark, note := "✓", c.Found
		if !c.OK {
			bad++
			mark, note = "✗", c.Found+": "+c.Fix
		}
		text += program.Wrap(fmt.Sprintf("%s %-22s ", mark, c.Name), note, width) + "\n"
	}
	if err := s.print(map[string]any{"checks": checks}, text); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d checks failed", bad, len(checks))
	}
	return nil
}

// checkPgBouncer asks the console of a pooler in front of the database. Without a pooler, ok is
// false. A console that does not let this user in leaves the mode unknown, which is no failure.
func checkPgBouncer(ctx context.Context, pool *pgxpool.Pool) (c console.Check, ok bool) {
	cfg := pool.Config().ConnConfig.Copy()
	cfg.Database = "pgbouncer"
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		// A Postgres without such a database has answered 3D000; a pooler refuses the user.
		if pg := new(pgconn.PgError); errors.As(err, &pg) && strings.Contains(pg.Message, "not allowed") {
			return console.Check{Name: "PgBouncer mode", OK: true, Found: "unknown: the user is in neither admin_users nor stats_users"}, true
		}
		return console.Check{}, false
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, "SHOW CONFIG")
	if err != nil {
		return console.Check{}, false
	}
	list, err := pgx.CollectRows(rows, pgx.RowToMap)
	if err != nil {
		return console.Check{}, false
	}
	settings := make(map[string]string)
	for _, r := range list {
		settings[fmt.Sprint(r["key"])] = fmt.Sprint(r["value"])
	}
	mode := settings["pool_mode"]
	found := fmt.Sprintf("%s, max_client_conn %s, default_pool_size %s", mode, settings["max_client_conn"], settings["default_pool_size"])
	return console.Check{Name: "PgBouncer mode", OK: mode == "transaction" || mode == "session", Found: found,
		Fix: "Set pool_mode = transaction: a batch is a transaction of several statements."}, true
}

// checkPrivileges checks what a program may do that creates its tables.
func checkPrivileges(ctx context.Context, pool *pgxpool.Pool) ([]console.Check, error) {
	var create, temporary bool
	if err := pool.QueryRow(ctx, `SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
		has_database_privilege(current_database(), 'TEMPORARY')`).Scan(&create, &temporary); err != nil {
		return nil, err
	}
	found := map[bool]string{true: "granted", false: "missing"}
	return []console.Check{
		{Name: "Privilege CREATE", OK: create, Found: found[create], Fix: "GRANT CREATE on the schema, or create the tables with a migration (schema print)."},
		{Name: "Privilege TEMPORARY", OK: temporary, Found: found[temporary], Fix: "GRANT TEMPORARY on the database."},
	}, nil
}
