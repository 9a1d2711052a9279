package main

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/examples/internal/ops"
	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/staging"
)

// schema is what a pipeline has in Postgres.
type schema struct {
	Print schemaPrint `cmd:"" help:"Print the tables, roll-ups and views as SQL."`
	Check schemaCheck `cmd:"" help:"Compare the database with the expected schema; create nothing."`
}

// laneCount is a number of lanes, for programs with more of them than the table has.
type laneCount struct {
	Lanes int `placeholder:"N" help:"Lanes, 1 to 16 (default: those of the table)."`
}

// Validate is called by kong after parsing.
func (v *laneCount) Validate() error {
	if v.Lanes == 0 {
		return nil
	}
	return between("--lanes", v.Lanes, 1, staging.MaxLanes)
}

type schemaPrint struct {
	laneCount
	Companions bool     `help:"Only the companions (staging, ledger, rejects) of a --table that exists. Implied by --lanes and --columns, and for tables other than orders."`
	Columns    []string `help:"Columns that the programs load (default: those of the staging tables, or else all)."`
}

// Run prints the SQL. The schema of the orders domain needs no server. The companion tables of an
// existing table get the types of its columns, which are read from the catalogue.
func (v *schemaPrint) Run(ctx context.Context, s *session) error {
	var sql string
	var err error
	if s.names() == orders.Names && !v.Companions && v.Columns == nil && v.Lanes == 0 {
		if sql, err = orders.SQL(); err != nil {
			return err
		}
		return s.print(map[string]string{"sql": sql}, sql)
	}
	pool, err := s.postgres(ctx)
	if err != nil {
		return err
	}
	if sql, err = ops.CompanionSQL(ctx, pool, s.Table, ops.Program{Columns: v.Columns, Lanes: v.Lanes}); err != nil {
		return err
	}
	if s.names() != orders.Names && !v.Companions {
		views, err := ops.ViewsSQL(ctx, pool, s.Views)
		if err != nil {
			return err
		}
		sql += views
	}
	return s.print(map[string]string{"sql": sql}, sql)
}

type schemaCheck struct {
	laneCount
	Role string `default:"all" enum:"worker,promoter,reader,all" help:"worker, promoter, reader or all."`
}

type checkedSchema struct {
	OK    bool   `json:"ok"`
	Table string `json:"table"`
	Role  string `json:"role"`
	Views string `json:"views,omitempty"` // the set of views; "": there is none, or it was not checked
}

// Run compares every table and view with its definition. It runs no DDL.
func (v *schemaCheck) Run(ctx context.Context, s *session) error {
	pool, err := s.postgres(ctx)
	if err != nil {
		return err
	}
	program, views := ops.Program{Role: ops.Roles[v.Role], Lanes: v.Lanes}, true
	if s.names() == orders.Names {
		err = orders.Check(ctx, pool, program)
	} else {
		views, err = ops.Check(ctx, pool, s.names(), program)
	}
	if err != nil {
		return err
	}
	checked := checkedSchema{OK: true, Table: s.Table, Role: v.Role}
	text := fmt.Sprintf("the schema of %s is as this program expects it\n", s.Table)
	switch {
	case program.Role == staging.RoleWorker: // it has nothing to do with the views
	case views:
		checked.Views = s.Views
	default:
		text += fmt.Sprintf("there is no set of views %s\n", s.Views)
	}
	return s.print(checked, text)
}

// grants are privileges in Postgres.
type grants struct {
	Print grantsPrint `cmd:"" help:"Print the privileges that a program needs, as SQL."`
}

type grantsPrint struct {
	laneCount
	To      string   `arg:"" help:"The database role that gets them."`
	Role    string   `default:"all" enum:"worker,promoter,reader,all" help:"worker, promoter, reader or all."`
	Replace bool     `help:"The program replaces rows by their key."`
	Columns []string `help:"Columns that the program loads (default: all)."`
}

// Validate is called by kong after parsing.
func (v *grantsPrint) Validate() error {
	if n := len(v.To); n < 1 || n > 63 {
		return fmt.Errorf("<to> has %d bytes, must be the name of a role, 1 to 63", n)
	}
	return v.laneCount.Validate()
}

// Run prints the SQL. It reads the catalogue, so the tables must exist.
func (v *grantsPrint) Run(ctx context.Context, s *session) error {
	pool, err := s.postgres(ctx)
	if err != nil {
		return err
	}
	var sql string
	program := ops.Program{Role: ops.Roles[v.Role], Replace: v.Replace, Columns: v.Columns, Lanes: v.Lanes}
	if s.names() == orders.Names && !v.Replace && v.Columns == nil {
		sql, err = orders.Grants(ctx, pool, program, v.To)
	} else {
		sql, err = ops.Grants(ctx, pool, s.names(), program, v.To)
	}
	if err != nil {
		return err
	}
	return s.print(map[string]string{"sql": sql}, sql)
}
