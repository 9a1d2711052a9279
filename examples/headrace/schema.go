package main

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/examples/orders"
)

// schema is what the orders domain has in Postgres.
type schema struct {
	Print schemaPrint `cmd:"" help:"Print the tables, the roll-up and the views as SQL."`
	Check schemaCheck `cmd:"" help:"Compare the database with them; creates nothing."`
}

type schemaPrint struct{}

// Run prints the SQL. It needs no server.
func (schemaPrint) Run(s *session) error {
	sql, err := orders.SQL()
	if err != nil {
		return err
	}
	return s.print(map[string]string{"sql": sql}, sql)
}

type schemaCheck struct{}

// Run compares every table and view with its definition. It runs no DDL.
func (schemaCheck) Run(ctx context.Context, s *session) error {
	if s.names() != orders.Names {
		return errNotOrders
	}
	pool, err := s.postgres(ctx)
	if err != nil {
		return err
	}
	if err := orders.Check(ctx, pool); err != nil {
		return err
	}
	return s.print(map[string]bool{"ok": true}, fmt.Sprintf("the schema of %s is as this program expects it\n", s.Table))
}

// grants are privileges in Postgres.
type grants struct {
	Print grantsPrint `cmd:"" help:"Print the privileges that a program needs, as SQL."`
}

type grantsPrint struct {
	To   string `arg:"" help:"The database role that gets them."`
	Role string `default:"all" enum:"worker,promoter,all" help:"What the program does: worker, promoter or all."`
}

// Run prints the SQL. It reads the catalogue, so the tables must exist.
func (v *grantsPrint) Run(ctx context.Context, s *session) error {
	if s.names() != orders.Names {
		return errNotOrders
	}
	pool, err := s.postgres(ctx)
	if err != nil {
		return err
	}
	sql, err := orders.Grants(ctx, pool, v.Role, v.To)
	if err != nil {
		return err
	}
	return s.print(map[string]string{"sql": sql}, sql)
}
