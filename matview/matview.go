package matview

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Refresher refreshes the views of one [Config]. This type is concurrency safe.
type Refresher struct {
	pool  *pgxpool.Pool
	cfg   Config
	views []View // in dependency order

	mu      sync.Mutex
	current *run // the run under way
	next    *run // what callers who came since then wait for
}

// NewRefresher creates the views and indexes that are missing and checks the others; a view that differs from its
// definition is a [*DriftError]. Nothing is ever dropped or replaced. The pool stays the caller's.
func NewRefresher(ctx context.Context, pool *pgxpool.Pool, cfg Config) (*Refresher, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	views, err := inOrder(cfg.Views)
	if err != nil {
		return nil, err
	}
	r := &Refresher{pool: pool, cfg: cfg, views: views}
	created, err := r.ensure(ctx)
	if err != nil {
		return nil, err
	}
	if cfg.Populate && len(created) > 0 {
		if _, err := r.Refresh(ctx, created...); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// inOrder sorts the views so that each comes after those it depends on, and otherwise as they were given.
func inOrder(views []View) ([]View, error) {
	byName := make(map[string]View, len(views))
	for _, v := range views {
		byName[v.Name] = v
	}
	var (
		order []View
		done  = make(map[string]bool, len(views))
		path  []string
		visit func(v View) error
	)
	visit = func(v View) error {
		if done[v.Name] {
			return nil
		}
		if i := slices.Index(path, v.Name); i >= 0 {
			return fmt.Errorf("matview: Config.Views: %w: %s", ErrCycle, strings.Join(append(path[i:], v.Name), " → "))
		}
		path = append(path, v.Name)
		for _, d := range v.DependsOn {
			if err := visit(byName[d]); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		done[v.Name] = true
		order = append(order, v)
		return nil
	}
	for _, v := range views {
		if err := visit(v); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// closure is the set of the named views and all they depend on; no names means all views.
func (r *Refresher) closure(names []string) (map[string]bool, error) {
	set := make(map[string]bool, len(r.views))
	for _, n := range names {
		if !slices.ContainsFunc(r.views, func(v View) bool { return v.Name == n }) {
			return nil, fmt.Errorf("matview: view %q: %w", n, ErrUnknownView)
		}
		set[n] = true
	}
	for _, v := range slices.Backward(r.views) { // whoever depends on v comes after it
		if len(names) == 0 {
			set[v.Name] = true
		}
		if set[v.Name] {
			for _, d := range v.DependsOn {
				set[d] = true
			}
		}
	}
	return set, nil
}

// ensure creates what is missing, in one transaction, and returns the names of the views it created.
func (r *Refresher) ensure(ctx context.Context) ([]string, error) {
	var created []string
	err := pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		if err := r.limits(ctx, tx); err != nil {
			return err
		}
		// IF NOT EXISTS alone is no protection: two sessions that create the same name at once collide in the catalogue.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "headrace/matview/"+r.cfg.StateTable); err != nil {
			return fmt.Errorf("matview: %s: wait for another process that creates views: %w", r.cfg.StateTable, err)
		}
		if _, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS `+mustIdent(r.cfg.StateTable)+` (
			name         text PRIMARY KEY,
			view         oid NOT NULL,          -- a view that was dropped and made again has another
			version      text NOT NULL,         -- the caller's token
			as_of        timestamptz NOT NULL,  -- the view holds what was committed before
			refreshed_at timestamptz NOT NULL,
			took         interval NOT NULL,
			refreshes    bigint NOT NULL)`); err != nil {
			return fmt.Errorf("matview: create %s: %w", r.cfg.StateTable, err)
		}
		for _, v := range r.views {
			made, err := ensureView(ctx, tx, v)
			if err != nil {
				return err
			}
			if made {
				created = append(created, v.Name)
			}
		}
		return nil
	})
	if err != nil && !strings.HasPrefix(err.Error(), "matview: ") {
		err = fmt.Errorf("matview: create views: %w", err)
	}
	return created, err
}

// ensureView creates a view or compares it with its definition.
func ensureView(ctx context.Context, tx pgx.Tx, v View) (created bool, err error) {
	sql := strings.TrimRight(v.SQL, "; \t\r\n")
	name := mustIdent(v.Name)
	var kind *string
	if err := tx.QueryRow(ctx, `SELECT (SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1))`, name).Scan(&kind); err != nil {
		return false, fmt.Errorf("matview: look up view %s: %w", v.Name, err)
	}
	switch {
	case kind == nil:
		// The line break ends a comment in which the query may end.
		if _, err := tx.Exec(ctx, "CREATE MATERIALIZED VIEW "+name+" AS "+sql+"\nWITH NO DATA"); err != nil {
			return false, fmt.Errorf("matview: create view %s: %w", v.Name, err)
		}
		created = true
	case *kind != "m":
		return false, &DriftError{
			Object: "materialized view " + v.Name, Differences: []string{"there is another kind of object (pg_class.relkind " + *kind + ") of that name"},
			Fix: "choose another name",
		}
	default:
		if err := compareView(ctx, tx, v.Name, sql); err != nil {
			return false, err
		}
	}
	return created, ensureIndex(ctx, tx, v)
}

// compareView has Postgres print both the view and a temporary one made from the wanted query: comparing two texts that
// Postgres wrote is the only comparison that spaces, comments and spelling cannot fool, and it also notices what was altered by hand.
func compareView(ctx context.Context, tx pgx.Tx, name, sql string) error {
	sub, err := tx.Begin(ctx)
	if err != nil {
		return fmt.Errorf("matview: compare view %s: %w", name, err)
	}
	defer sub.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // nothing of it is to stay
	if _, err := sub.Exec(ctx, "CREATE TEMPORARY VIEW headrace_wanted AS "+sql); err != nil {
		return fmt.Errorf("matview: view %s: its SQL: %w", name, err)
	}
	var have, want string
	if err := sub.QueryRow(ctx, `SELECT pg_get_viewdef(to_regclass($1)), pg_get_viewdef(to_regclass('pg_temp.headrace_wanted'))`,
		mustIdent(name)).Scan(&have, &want); err != nil {
		return fmt.Errorf("matview: compare view %s: %w", name, err)
	}
	if have == want {
		return nil
	}
	diffs, err := compareColumns(ctx, sub, mustIdent(name), "pg_temp.headrace_wanted")
	if err != nil {
		return fmt.Errorf("matview: compare view %s: %w", name, err)
	}
	if len(diffs) == 0 {
		h, w := firstDifference(have, want)
		diffs = []string{fmt.Sprintf("its query has %q where the definition has %q", h, w)}
	}
	return &DriftError{
		Object: "materialized view " + name, Differences: diffs,
		Fix: "DROP MATERIALIZED VIEW " + mustIdent(name) + " (CASCADE takes what is built on it along) and it is made again, or change the definition back",
	}
}

// compareColumns names the columns in which two relations differ; have may have columns that want has not.
func compareColumns(ctx context.Context, tx pgx.Tx, have, want string) ([]string, error) {
	rows, err := tx.Query(ctx, `
		SELECT coalesce(h.attname, w.attname)::text, format_type(h.atttypid, h.atttypmod), format_type(w.atttypid, w.atttypmod)
		FROM (SELECT * FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped) h
		FULL JOIN (SELECT * FROM pg_attribute WHERE attrelid = to_regclass($2) AND attnum > 0 AND NOT attisdropped) w USING (attname)
		WHERE (h.atttypid, h.atttypmod) IS DISTINCT FROM (w.atttypid, w.atttypmod)
		ORDER BY w.attnum, h.attnum`, have, want)
	if err != nil {
		return nil, err
	}
	var (
		diffs []string
		name  string
		h, w  *string
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &h, &w}, func() error {
		switch {
		case h == nil:
			diffs = append(diffs, fmt.Sprintf("column %s (%s) is missing", quote(name), *w))
		case w == nil:
			diffs = append(diffs, fmt.Sprintf("column %s (%s) is not in the definition", quote(name), *h))
		default:
			diffs = append(diffs, fmt.Sprintf("column %s is %s, the definition has %s", quote(name), *h, *w))
		}
		return nil
	})
	return diffs, err
}

// firstDifference cuts out the place where two texts part, long enough to be found again.
func firstDifference(a, b string) (string, string) {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	from := max(0, i-20)
	cut := func(s string) string { return strings.Join(strings.Fields(s[from:min(len(s), i+40)]), " ") }
	return cut(a), cut(b)
}

// ensureIndex creates the unique index of a view unless it has one on these columns, in any order.
func ensureIndex(ctx context.Context, tx pgx.Tx, v View) error {
	if len(v.UniqueIndex) == 0 {
		return nil
	}
	var exists bool
	if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM (`+plainUnique+`) i WHERE (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C")
		FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.columns)) = $2)`,
		mustIdent(v.Name), slices.Sorted(slices.Values(v.UniqueIndex))).Scan(&exists); err != nil {
		return fmt.Errorf("matview: look up the index of view %s: %w", v.Name, err)
	}
	if exists {
		return nil
	}
	if _, err := tx.Exec(ctx, "CREATE UNIQUE INDEX ON "+mustIdent(v.Name)+" ("+strings.Join(quoteAll(v.UniqueIndex), ", ")+")"); err != nil {
		return fmt.Errorf("matview: unique index of view %s on (%s): %w", v.Name, strings.Join(v.UniqueIndex, ", "), err)
	}
	return nil
}

// plainUnique selects the indexes of the relation $1 that allow REFRESH … CONCURRENTLY.
const plainUnique = `SELECT x.indrelid, (string_to_array(x.indkey::text, ' ')::int2[])[1:x.indnkeyatts] AS columns FROM pg_index x
	WHERE x.indrelid = to_regclass($1) AND x.indisunique AND x.indisvalid AND x.indimmediate AND x.indpred IS NULL AND x.indexprs IS NULL`

// limits makes sure that nobody waits for a frozen process, this one included.
func (r *Refresher) limits(ctx context.Context, tx pgx.Tx) error {
	ms := func(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }
	_, err := tx.Exec(ctx, `SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true),
		set_config('idle_in_transaction_session_timeout', '60000', true)`, ms(r.cfg.Timeout), ms(r.cfg.LockTimeout))
	return err
}

// errNoView is for a view that somebody dropped after NewRefresher.
var errNoView = errors.New("the view does not exist any more: NewRefresher creates it")
