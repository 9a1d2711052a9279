package matview

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Merge says how a measure takes in new rows.
type Aggregate uint8

const (
	// Sum adds; NULLs are left out, as in SQL's sum.
	AggregateSum Aggregate = iota + 1
	// Count counts the rows where Expr is not NULL, all of them if Expr is empty.
	AggregateCount
	// Min keeps the smallest.
	AggregateMin
	// Max keeps the greatest.
	AggregateMax
)

// Column is a column of a roll-up's key.
type Column struct {
	// Name of the column in the roll-up.
	Name string
	// Expr over the columns of the promoted row; default: the column of the same name. It is code: never build it from input.
	Expr string
	// Type of the column, as SQL writes it.
	Type string
}

// Measure is an aggregated column of a roll-up.
type Measure struct {
	Name string
	// Expr is what is aggregated, without the aggregate: "quantity * price", not "sum(quantity * price)". It is code: never build it from input.
	Expr string
	// Type of the column. Default bigint for Count, numeric for Sum; Min and Max need one.
	Type      string
	Aggregate Aggregate
}

// Rollup is a table of aggregates that is merged from the rows of each promotion, in the promotion's transaction.
// NULL is a group like any other. The methods only read it, so it is concurrency safe as long as nobody changes it.
type Rollup struct {
	// Table is the roll-up's own table, "table" or "schema.table".
	Table string
	// Name of the merge among others; default: the table's name.
	Name     string
	GroupBy  []Column
	Measures []Measure
}

// maxKeyColumns is INDEX_MAX_KEYS.
const maxKeyColumns = 32

// Validate checks the roll-up, as the other methods do first.
func (r Rollup) Validate() error {
	if _, err := parseName(r.Table); err != nil {
		return fmt.Errorf("matview: Rollup.Table: %w", err)
	}
	if n := len(r.GroupBy); n < 1 || n > maxKeyColumns {
		return fmt.Errorf("matview: roll-up %s: GroupBy has %d columns: must be 1 to %d", r.Table, n, maxKeyColumns)
	}
	if n := len(r.Measures); n < 1 || n > 1000 {
		return fmt.Errorf("matview: roll-up %s: Measures has %d columns: must be 1 to 1000", r.Table, n)
	}
	seen := map[string]bool{}
	name := func(field string, i int, name string) error {
		if err := checkName(name); err != nil {
			return fmt.Errorf("matview: roll-up %s: %s[%d].Name: %w", r.Table, field, i, err)
		}
		if seen[name] {
			return fmt.Errorf("matview: roll-up %s: %s[%d].Name is %q: already used by another column", r.Table, field, i, name)
		}
		seen[name] = true
		return nil
	}
	for i, c := range r.GroupBy {
		if err := name("GroupBy", i, c.Name); err != nil {
			return err
		}
		if c.Type == "" {
			return fmt.Errorf("matview: roll-up %s: GroupBy[%d].Type (column %s) is empty: must be an SQL type", r.Table, i, c.Name)
		}
	}
	for i, m := range r.Measures {
		if err := name("Measures", i, m.Name); err != nil {
			return err
		}
		if m.Aggregate < AggregateSum || m.Aggregate > AggregateMax {
			return fmt.Errorf("matview: roll-up %s: Measures[%d].Merge (column %s) is %d: must be Sum, Count, Min or Max", r.Table, i, m.Name, m.Aggregate)
		}
		if m.Expr == "" && m.Aggregate != AggregateCount {
			return fmt.Errorf("matview: roll-up %s: Measures[%d].Expr (column %s) is empty: only Count may leave it out", r.Table, i, m.Name)
		}
		if m.Type == "" && (m.Aggregate == AggregateMin || m.Aggregate == AggregateMax) {
			return fmt.Errorf("matview: roll-up %s: Measures[%d].Type (column %s) is empty: Min and Max need an SQL type", r.Table, i, m.Name)
		}
		switch strings.ToLower(m.Type) {
		case "real", "float", "float4", "float8", "double precision":
			if m.Aggregate == AggregateSum {
				// The sum of floats depends on the order in which they are added: no recomputation would ever confirm it.
				return fmt.Errorf("matview: roll-up %s: Measures[%d].Type (column %s) is %s: a Sum must be exact: numeric or an integer type", r.Table, i, m.Name, m.Type)
			}
		}
	}
	return nil
}

func (c Column) expr() string { return "(" + cmp.Or(c.Expr, quote(c.Name)) + ")::" + c.Type }

func (m Measure) sqlType() string {
	switch {
	case m.Type != "":
		return m.Type
	case m.Aggregate == AggregateCount:
		return "bigint"
	default:
		return "numeric"
	}
}

func (m Measure) aggregate() string {
	f := map[Aggregate]string{AggregateSum: "sum", AggregateCount: "count", AggregateMin: "min", AggregateMax: "max"}[m.Aggregate]
	return f + "(" + cmp.Or(m.Expr, "*") + ")::" + m.sqlType()
}

// merged is the new value of a row r that is there already. The sum of a group in which there were only NULLs is NULL, and must not
// swallow what comes; least and greatest leave NULLs out by themselves.
func (m Measure) merged() string {
	q := quote(m.Name)
	switch m.Aggregate {
	case AggregateMin:
		return q + " = least(r." + q + ", excluded." + q + ")"
	case AggregateMax:
		return q + " = greatest(r." + q + ", excluded." + q + ")"
	default:
		return q + " = coalesce(r." + q + " + excluded." + q + ", r." + q + ", excluded." + q + ")"
	}
}

func (r Rollup) keys() []string {
	q := make([]string, len(r.GroupBy))
	for i, c := range r.GroupBy {
		q[i] = quote(c.Name)
	}
	return q
}

func (r Rollup) measures() []string {
	q := make([]string, len(r.Measures))
	for i, m := range r.Measures {
		q[i] = quote(m.Name)
	}
	return q
}

// sel aggregates the rows of a relation, which goes by the name promoted.
func (r Rollup) sel(from string) string {
	var cols, ordinals []string
	for i, c := range r.GroupBy {
		cols = append(cols, c.expr()+" AS "+quote(c.Name))
		ordinals = append(ordinals, fmt.Sprint(i+1))
	}
	for _, m := range r.Measures {
		cols = append(cols, m.aggregate()+" AS "+quote(m.Name))
	}
	if from != "promoted" {
		from += " AS promoted"
	}
	return "SELECT " + strings.Join(cols, ", ") + " FROM " + from + " GROUP BY " + strings.Join(ordinals, ", ")
}

// upsert writes the groups of a query into the roll-up. The order of the key is what keeps two promoters from deadlocking.
func (r Rollup) upsert(query string, set []string, where string) string {
	cols := append(r.keys(), r.measures()...)
	var ordinals []string
	for i := range r.GroupBy {
		ordinals = append(ordinals, fmt.Sprint(i+1))
	}
	return "INSERT INTO " + mustIdent(r.Table) + " AS r (" + strings.Join(cols, ", ") + ") " + query +
		" ORDER BY " + strings.Join(ordinals, ", ") +
		" ON CONFLICT (" + strings.Join(r.keys(), ", ") + ") DO UPDATE SET " + strings.Join(set, ", ") + where
}

// Merge returns a name and the text of a data-modifying statement that reads the rows of one promotion from the common table
// expression "promoted" and merges them. It begins with INSERT and ends without a semicolon, so it serves as the body of a
// further common table expression or as the main statement. Rows are merged in the order of the key, so that two promoters cannot deadlock.
func (r Rollup) Merge() (name, sql string, err error) {
	if err := r.Validate(); err != nil {
		return "", "", err
	}
	set := make([]string, len(r.Measures))
	for i, m := range r.Measures {
		set[i] = m.merged()
	}
	return cmp.Or(r.Name, last(r.Table)), r.upsert(r.sel("promoted"), set, ""), nil
}

// Create makes the table and its unique key where they are missing, and otherwise checks them: a difference is a
// [*DriftError]. A new roll-up is empty: if the target already has rows, call [Rollup.Rebuild] once.
func (r Rollup) Create(ctx context.Context, db DB) error {
	if err := r.Validate(); err != nil {
		return err
	}
	return r.tx(ctx, db, "create", func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "headrace/rollup/"+r.Table); err != nil {
			return err
		}
		var exists bool
		if err := tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, mustIdent(r.Table)).Scan(&exists); err != nil {
			return err
		}
		if !exists {
			// Room on each page keeps updates on the page (HOT): no measure is indexed.
			if _, err := tx.Exec(ctx, "CREATE TABLE "+mustIdent(r.Table)+" ("+r.columns()+") WITH (fillfactor = 80)"); err != nil {
				return err
			}
		} else if err := r.compare(ctx, tx); err != nil {
			return err
		}
		return r.ensureKey(ctx, tx)
	})
}

func (r Rollup) columns() string {
	var defs []string
	for _, c := range r.GroupBy {
		defs = append(defs, quote(c.Name)+" "+c.Type)
	}
	for _, m := range r.Measures {
		defs = append(defs, quote(m.Name)+" "+m.sqlType())
	}
	return strings.Join(defs, ", ")
}

// compare makes the wanted table for a moment, so that Postgres itself says whether two spellings of a type are the same.
func (r Rollup) compare(ctx context.Context, tx pgx.Tx) error {
	sub, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	defer sub.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // nothing of it is to stay
	if _, err := sub.Exec(ctx, "CREATE TEMPORARY TABLE headrace_wanted ("+r.columns()+")"); err != nil {
		return err
	}
	diffs, err := compareColumns(ctx, sub, mustIdent(r.Table), "pg_temp.headrace_wanted")
	if err != nil {
		return err
	}
	if len(diffs) > 0 {
		return &DriftError{
			Object: "roll-up " + r.Table, Differences: diffs,
			Fix: "DROP TABLE " + mustIdent(r.Table) + ", then Create and Rebuild, or change the definition back",
		}
	}
	return nil
}

// ensureKey creates the unique index that ON CONFLICT needs. Without NULLS NOT DISTINCT each promotion would add one more row
// for the group whose key is NULL.
func (r Rollup) ensureKey(ctx context.Context, tx pgx.Tx) error {
	names := make([]string, len(r.GroupBy))
	for i, c := range r.GroupBy {
		names[i] = c.Name
	}
	var exists bool
	if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM (`+plainUnique+` AND x.indnullsnotdistinct) i
		WHERE (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C") FROM pg_attribute a
			WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.columns)) = $2)`,
		mustIdent(r.Table), slices.Sorted(slices.Values(names))).Scan(&exists); err != nil {
		return err
	}
	if exists {
		return nil
	}
	_, err := tx.Exec(ctx, "CREATE UNIQUE INDEX ON "+mustIdent(r.Table)+" ("+strings.Join(r.keys(), ", ")+") NULLS NOT DISTINCT")
	return err
}

// rollupLockTimeout bounds the wait of Create and Rebuild for promotions under way.
const rollupLockTimeout = 30 * time.Second

// tx runs f in a transaction. Inside a caller's transaction the time limits are the caller's too.
func (r Rollup) tx(ctx context.Context, db DB, what string, f func(tx pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, callers := db.(pgx.Tx); !callers {
			if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true), set_config('idle_in_transaction_session_timeout', '60000', true)`,
				fmt.Sprint(rollupLockTimeout.Milliseconds())); err != nil {
				return err
			}
		}
		return f(tx)
	})
	if err != nil {
		if errors.Is(err, ErrDrift) {
			return err // it names the roll-up itself
		}
		return fmt.Errorf("matview: %s roll-up %s: %w", what, r.Table, err)
	}
	return nil
}
