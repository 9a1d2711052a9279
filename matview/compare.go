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

var (
	//go:embed compare.sql
	compareSQL string
	//go:embed types.sql
	typesSQL string
)

// compareView compares a view with its definition: first the columns, which needs no privilege,
// then the query.
//
// Postgres judges the query. It prints the view and one that is created from the wanted query for a
// moment: comparing two texts that Postgres wrote is the only comparison that spaces, comments and
// spelling cannot fool, and it notices what was altered by hand. A role that may not create
// anything, and one that must not (Config.NoCreate), compares the wanted query with the recorded
// one instead.
func (r *Refresher) compareView(ctx context.Context, tx pgx.Tx, v View) error {
	var scratch string
	var recorded *string
	if err := tx.QueryRow(ctx, pgschema.Fill(compareSQL, "state", r.state), v.ident(), v.Name).Scan(&scratch, &recorded); err != nil {
		return err
	}
	diffs, err := compareColumns(ctx, tx, v)
	if err != nil {
		return err
	}
	same := recorded != nil && *recorded == v.query()
	if len(diffs) == 0 {
		switch {
		case scratch != "" && !r.cfg.NoCreate:
			if diffs, err = compareQueries(ctx, tx, scratch, v); err != nil {
				return err
			}
		case recorded == nil:
			r.cfg.Logger.WarnContext(ctx, "matview: only the columns of the view were compared: no query is recorded for it", "view", v.Name)
		case !same:
			have, want := firstDifference(*recorded, v.query())
			diffs = []string{fmt.Sprintf("its recorded query has %q where the definition has %q", have, want)}
		}
	}
	if len(diffs) > 0 {
		return &DriftError{
			Object: "materialized view " + v.Name, Differences: diffs,
			Fix: "DROP MATERIALIZED VIEW " + v.ident() +
				" (CASCADE also drops what is built on it) and create it again, or change the definition back",
		}
	}
	if same || recorded == nil && r.cfg.NoCreate {
		return nil
	}
	_, err = tx.Exec(ctx, define(r.state, v))
	return err
}

// compareQueries has Postgres print both queries.
func compareQueries(ctx context.Context, tx pgx.Tx, schema string, v View) (diffs []string, err error) {
	// A name of this connection alone: another process may be comparing too.
	wanted := fmt.Sprintf("%s.headrace_wanted_%d", schema, tx.Conn().PgConn().PID())
	var have, want string
	err = attempt(ctx, tx, func() error {
		if _, err := tx.Exec(ctx, "CREATE VIEW "+wanted+" AS "+v.query()); err != nil {
			return err
		}
		const printed = `SELECT pg_get_viewdef(to_regclass($1)), pg_get_viewdef(to_regclass($2))`
		if err := tx.QueryRow(ctx, printed, v.ident(), wanted).Scan(&have, &want); err != nil {
			return err
		}
		return errUndo // nothing of it is to stay
	})
	if !errors.Is(err, errUndo) {
		return nil, err
	}
	if have != want {
		h, w := firstDifference(have, want)
		diffs = []string{fmt.Sprintf("its query has %q where the definition has %q", h, w)}
	}
	return diffs, nil
}

// compareColumns compares the columns of a view with those of its query.
func compareColumns(ctx context.Context, tx pgx.Tx, v View) ([]string, error) {
	have, err := describe(ctx, tx, "SELECT * FROM "+v.ident())
	if err != nil {
		return nil, err
	}
	want, err := describe(ctx, tx, v.query())
	if err != nil {
		return nil, ofView(v.Name, err)
	}
	return columnDiffs(have, want), nil
}

// field is a column of a result: its name and type.
type field struct {
	name     string
	oid      uint32
	modifier int32
	typ      string // as SQL writes it
}

// describe asks the server for the columns of a query without running it.
func describe(ctx context.Context, tx pgx.Tx, query string) ([]field, error) {
	d, err := tx.Conn().PgConn().Prepare(ctx, "", query, nil)
	if err != nil {
		return nil, err
	}
	return named(ctx, tx, d.Fields)
}

// named fills in the names of types.
func named(ctx context.Context, tx pgx.Tx, described []pgconn.FieldDescription) ([]field, error) {
	fields := make([]field, len(described))
	oids, modifiers := make([]uint32, len(described)), make([]int32, len(described))
	for i, f := range described {
		oids[i], modifiers[i] = f.DataTypeOID, f.TypeModifier
		fields[i] = field{name: f.Name, oid: f.DataTypeOID, modifier: f.TypeModifier}
	}
	rows, err := tx.Query(ctx, typesSQL, oids, modifiers)
	if err != nil {
		return nil, err
	}
	types, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	for i := range fields {
		fields[i].typ = types[i]
	}
	return fields, nil
}

// columnDiffs names the columns in which two relations differ.
func columnDiffs(have, want []field) (diffs []string) {
	find := func(in []field, name string) *field {
		if i := slices.IndexFunc(in, func(f field) bool { return f.name == name }); i >= 0 {
			return &in[i]
		}
		return nil
	}
	for _, w := range want {
		switch h := find(have, w.name); {
		case h == nil:
			diffs = append(diffs, fmt.Sprintf("column %s (%s) is missing", pgschema.Quote(w.name), w.typ))
		case h.oid != w.oid || h.modifier != w.modifier:
			diffs = append(diffs, fmt.Sprintf("column %s is %s, the definition has %s", pgschema.Quote(w.name), h.typ, w.typ))
		}
	}
	for _, h := range have {
		if find(want, h.name) == nil {
			diffs = append(diffs, fmt.Sprintf("column %s (%s) is not in the definition", pgschema.Quote(h.name), h.typ))
		}
	}
	return diffs
}

// firstDifference returns the part of each text around their first difference, long enough to be
// found again.
func firstDifference(a, b string) (string, string) {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	from := max(0, i-20)
	cut := func(s string) string { return strings.Join(strings.Fields(s[from:min(len(s), i+40)]), " ") }
	return cut(a), cut(b)
}
