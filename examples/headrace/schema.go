package main

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/examples/orders"
)

// schema is what the orders domain has in Postgres.
type schema struct {
	Print schemaPrint `cmd:"" help:"Print the tables, the roll-up and the views as SQL."`
	Check schemaCheck `cmd:"" help:"Compare the database with them; creates missing objects."`
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

// Run opens the pipeline, which compares every table and view with its definition.
func (schemaCheck) Run(ctx context.Context, s *session) error {
	if _, err := s.app(ctx); err != nil {
		return err
	}
	return s.print(map[string]bool{"ok": true}, fmt.Sprintf("the schema of %s is as this program expects it\n", s.Table))
}
