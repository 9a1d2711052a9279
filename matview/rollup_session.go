package matview

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/pgschema"
)

var (
	//go:embed rollup_session.sql
	rollupSessionSQL string
	//go:embed rollup_hidden.sql
	rollupHiddenSQL string
)

// otherSessions are settings that programs differ in, and that an expression must not depend on.
// Their zones are whole minutes apart from that of the first, no whole hours.
var otherSessions = [][2]string{{"TimeZone", "UTC"}, {"TimeZone", "Asia/Kathmandu"}, {"TimeZone", "America/St_Johns"}, {"DateStyle", "ISO, DMY"}, {"DateStyle", "ISO, MDY"}}

// samples are values of the types that a session's settings say how to read, print or cut. Hours,
// days, weeks, months and years begin between them in one zone and not in another.
var samples = map[string][2]string{
	"timestamp with time zone":    {"2025-12-31 23:30:45Z", "2026-01-04 23:10:05Z"},
	"timestamp without time zone": {"2025-12-31 23:30:45", "2026-01-04 23:10:05"},
	"date":                        {"2026-01-01", "2026-02-01"},
	"time with time zone":         {"23:30:45Z", "23:10:05Z"},
	"time without time zone":      {"23:30:45", "23:10:05"},
	"text":                        {"2025-12-31 23:30:45", "01/02/2026"},
	"character varying":           {"2025-12-31 23:30:45", "01/02/2026"},
}

// session returns the settings on which the roll-up's expressions depend, and their values: with
// others, two programs would make two groups of one. Postgres does not tell which expressions do,
// because PostgreSQL 15 counts date_trunc with a zone among them. So two made-up rows are computed
// under different settings. An expression that fails for them counts as one that depends on none.
func (r Rollup) session(ctx context.Context, tx pgx.Tx) (map[string]string, error) {
	from, err := r.sampleRows(ctx, tx)
	if err != nil {
		return nil, err
	}
	exprs := make([]string, 0, len(r.GroupBy)+len(r.Measures))
	for _, c := range r.GroupBy {
		exprs = append(exprs, c.expr()+"::"+c.Type)
	}
	for _, m := range r.Measures {
		switch {
		case m.Expr == "":
		case m.Type != "" && m.Aggregate != AggregateSum && m.Aggregate != AggregateAverage && m.Aggregate != AggregateCount:
			exprs = append(exprs, "("+m.Expr+")::"+m.Type)
		default:
			exprs = append(exprs, "("+m.Expr+")")
		}
	}
	settings := map[string]string{}
	for _, expr := range exprs {
		setting, err := dependsOnSession(ctx, tx, expr, from)
		if err != nil {
			return nil, err
		}
		if setting == "" || settings[setting] != "" {
			continue
		}
		if settings[setting], err = sessionSetting(ctx, tx, setting); err != nil {
			return nil, err
		}
	}
	return settings, nil
}

// utc are other names of the zone UTC.
var utc = map[string]bool{"etc/utc": true, "gmt": true, "etc/gmt": true, "zulu": true, "etc/zulu": true, "uct": true, "etc/uct": true, "universal": true, "etc/universal": true, "utc": true}

// sessionSetting reads a setting. Of DateStyle only the order of day and month matters: promotions
// of package staging set the rest.
func sessionSetting(ctx context.Context, tx pgx.Tx, name string) (value string, err error) {
	err = tx.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value)
	switch _, order, _ := strings.Cut(value, ", "); {
	case name == "DateStyle":
		return order, err
	case utc[strings.ToLower(value)]:
		return "UTC", err
	}
	return value, err
}

// otherSession names the settings that differ from those with which the roll-up was filled.
func otherSession(ctx context.Context, tx pgx.Tx, recorded map[string]string) (diffs []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(recorded)) {
		now, err := sessionSetting(ctx, tx, name)
		if err != nil {
			return nil, err
		}
		if was := recorded[name]; now != was {
			diffs = append(diffs, fmt.Sprintf("its expressions depend on the session's %s, with which it was filled as %q and which is %q here", name, was, now))
		}
	}
	return diffs, nil
}

// checkOwnSession refuses to compare a roll-up in a session in which its expressions have other
// values.
func (r Rollup) checkOwnSession(ctx context.Context, tx pgx.Tx) error {
	objects, err := lookUp(ctx, tx, []pgschema.Name{mustParse(r.Table)})
	if err != nil {
		return err
	}
	have, _ := recorded(objects[0].Comment)
	diffs, err := otherSession(ctx, tx, have.Session)
	if err != nil || len(diffs) == 0 {
		return err
	}
	return &DriftError{Object: "roll-up " + ident(r.Table), Differences: diffs, Fix: fixSession}
}

const fixSession = "connect with the same setting, or name the zone in the expression, as in date_trunc('day', at, 'UTC'), and call Rebuild"

// sampleRows is a query of two rows as Rollup.From may have them.
func (r Rollup) sampleRows(ctx context.Context, tx pgx.Tx) (string, error) {
	columns, err := describe(ctx, tx, "SELECT * FROM "+ident(r.From))
	if err != nil {
		return "", err
	}
	var rows [2][]string
	for _, c := range columns {
		base, _, _ := strings.Cut(c.typ, "(")
		if _, zone, ok := strings.Cut(c.typ, ") "); ok { // timestamp(3) with time zone
			base += " " + zone
		}
		for i := range rows {
			value := "NULL"
			if s, ok := samples[base]; ok {
				value = pgschema.Literal(s[i])
			}
			rows[i] = append(rows[i], value+"::"+c.typ+" AS "+pgschema.Quote(c.name)) // of a domain, its base
		}
	}
	return "SELECT " + join(rows[0]) + " UNION ALL SELECT " + join(rows[1]), nil
}

// dependsOnSession names the setting on which an expression depends, "" if none is found.
func dependsOnSession(ctx context.Context, tx pgx.Tx, expr, from string) (setting string, err error) {
	sql := trim(pgschema.Fill(rollupSessionSQL, "expr", expr, "from", from))
	// A setting that a part of a transaction makes ends with its rollback.
	err = attempt(ctx, tx, func() error {
		last, value := "", ""
		for _, s := range otherSessions {
			if _, err := tx.Exec(ctx, `SELECT set_config($1, $2, true)`, s[0], s[1]); err != nil {
				return err
			}
			var now string
			if err := tx.QueryRow(ctx, sql).Scan(&now); err != nil {
				return err
			}
			if last == s[0] && now != value {
				setting = s[0]
				break
			}
			last, value = s[0], now
		}
		return errUndo
	})
	if errors.Is(err, errUndo) || sqlState(err) != "" && ctx.Err() == nil {
		err = nil
	}
	return setting, err
}

// formats are the settings by which a promotion of package staging prints values and applies
// policies. Expressions may contain such texts, and a recomputation must come to the same ones.
var formats = [][2]string{
	{"DateStyle", "ISO"}, {"IntervalStyle", "postgres"}, {"extra_float_digits", "1"}, {"bytea_output", "hex"}, {"row_security", "on"},
}

// withFormats runs f with them. What the transaction had is restored; a failed part of it is rolled
// back with its settings.
func withFormats(ctx context.Context, tx pgx.Tx, f func() error) error {
	before := make([]string, len(formats))
	for i, s := range formats {
		if err := tx.QueryRow(ctx, `SELECT current_setting($1), set_config($1, $2, true)`, s[0], s[1]).Scan(&before[i], nil); err != nil {
			return err
		}
	}
	if err := f(); err != nil {
		return err
	}
	for i, s := range formats {
		if _, err := tx.Exec(ctx, `SELECT set_config($1, $2, true)`, s[0], before[i]); err != nil {
			return err
		}
	}
	return nil
}

// checkVisible refuses to compare or recompute a roll-up as a role from which row-level security
// may hide rows: they would be taken out.
func (r Rollup) checkVisible(ctx context.Context, tx pgx.Tx) error {
	idents := []string{ident(r.From)}
	for _, c := range r.contents() {
		idents = append(idents, c.ident)
	}
	var role string
	var hidden []string
	err := tx.QueryRow(ctx, rollupHiddenSQL, idents).Scan(&role, &hidden)
	if err != nil || len(hidden) == 0 {
		return err
	}
	return fmt.Errorf("%w: row-level security of table %s may hide rows from role %q, which needs: ALTER ROLE %s BYPASSRLS; or a policy that shows them all",
		ErrPrivilege, strings.Join(hidden, ", "), role, pgschema.Quote(role))
}
