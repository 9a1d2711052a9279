package matview

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
)

// The defaults of [Config].
const (
	DefaultTimeout      = 15 * time.Minute
	DefaultLockTimeout  = 30 * time.Second
	DefaultDebounce     = time.Second
	DefaultMaxStaleness = time.Minute
)

// The limits of [Config].
const (
	minTimeout = time.Millisecond
	maxTimeout = 24 * time.Hour
)

// View is one materialized view.
type View struct {
	// Name of the view: `view`, `schema.view` or `"any name"."any name"`. It is spelled as in the
	// catalogue: "Sales" and "sales" are two views.
	Name string
	// SQL is the query, without a semicolon. It is code: never build it from input.
	SQL string
	// UniqueIndex names the columns that identify a row. A concurrent refresh needs it; without it,
	// readers wait. NULLs in these columns are allowed, but every refresh rewrites their rows.
	UniqueIndex []string
	// DependsOn names views of the same Config that SQL reads. The refresh order comes from the
	// catalogue, so DependsOn is needed only for a dependency that the catalogue does not know: a view
	// that is read inside the body of a function. [SQL] creates the views in this order too.
	DependsOn []string
}

// Config configures a [Refresher].
type Config struct {
	// Views are the views, in any order.
	Views []View
	// Changed returns a token that differs whenever the tables under the views have changed, for
	// example the number and the newest time of the commits in the ledger. A view whose last refresh
	// had the same token is skipped. A maximum time alone can hide a commit that became visible late;
	// add the count. nil: never skip.
	Changed func(ctx context.Context) (string, error)
	// Populate fills new views when they are created. By default they are created unpopulated. Then
	// reading one is an error until its first Refresh, but a service starts without waiting for a
	// query over the whole table.
	Populate bool
	// NoCreate makes New check the state table, the views and their indexes, and create nothing. A
	// missing object is an [ErrMissing]. [SQL] returns the schema for a migration tool.
	NoCreate bool
	// Timeout bounds the refresh of one view, on the server. Default [DefaultTimeout].
	Timeout time.Duration
	// LockTimeout bounds a wait for a lock: for another process that refreshes the same view, or
	// for readers where the refresh is not concurrent. Default [DefaultLockTimeout].
	LockTimeout time.Duration
	// Debounce is how long [Refresher.Run] waits for further notices before it refreshes, and before
	// it retries a view for the first time. Default [DefaultDebounce].
	Debounce time.Duration
	// MaxStaleness bounds how long further notices can put off a refresh of [Refresher.Run], and the
	// pause between its retries of a view that fails. Default [DefaultMaxStaleness].
	MaxStaleness time.Duration
	// SkipAnalyze leaves out the ANALYZE after a refresh. Then neither the planner nor
	// [Refresher.Freshness] knows how many rows a view has until autovacuum analyzes it.
	SkipAnalyze bool
	// Logger receives what no caller receives: the failures that [Refresher.Run] retries (when they
	// begin, now and then, and when they end), the failure of a refresh whose callers have all left,
	// and a warning about a definition that New could not compare. nil: slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.LockTimeout = cmp.Or(c.LockTimeout, DefaultLockTimeout)
	c.Debounce = cmp.Or(c.Debounce, DefaultDebounce)
	c.MaxStaleness = cmp.Or(c.MaxStaleness, DefaultMaxStaleness)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// check finds the first field that cannot be used.
func (c Config) check() error {
	if len(c.Views) == 0 {
		return invalid("Config.Views is empty, must have at least 1 view")
	}
	if err := c.checkLimits(); err != nil {
		return err
	}
	seen := make(map[string]bool, len(c.Views))
	for i, v := range c.Views {
		if err := v.check(fmt.Sprintf("Config.Views[%d]", i)); err != nil {
			return err
		}
		if seen[v.ident()] {
			return invalid("Config.Views[%d].Name is %q, must differ from that of every earlier view", i, v.Name)
		}
		seen[v.ident()] = true
	}
	for i, v := range c.Views {
		for j, d := range v.DependsOn {
			if _, err := pgschema.ParseName(d); err != nil || !seen[ident(d)] {
				return invalid("Config.Views[%d].DependsOn[%d] is %q, must be the Name of a view in Config.Views", i, j, d)
			}
		}
	}
	return nil
}

// checkLimits checks the fields that are durations.
func (c Config) checkLimits() error {
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"Timeout", c.Timeout}, {"LockTimeout", c.LockTimeout}, {"Debounce", c.Debounce}, {"MaxStaleness", c.MaxStaleness}} {
		if d.value < minTimeout || d.value > maxTimeout {
			return invalid("Config.%s is %v, must be 1ms to 24h", d.field, d.value)
		}
	}
	return nil
}

func (v View) check(field string) error {
	if _, err := pgschema.ParseName(v.Name); err != nil {
		return invalid("%s.Name is %q, %w", field, v.Name, err)
	}
	if v.query() == "" {
		return invalid("%s.SQL is empty, must be a query", field)
	}
	if n := len(v.UniqueIndex); n > maxKeyColumns {
		return invalid("%s.UniqueIndex has %d columns, must have 0 to %d", field, n, maxKeyColumns)
	}
	for i, c := range v.UniqueIndex {
		switch {
		case c == "":
			return invalid("%s.UniqueIndex[%d] is empty, must be a column of the view", field, i)
		case len(c) > pgschema.MaxName || strings.ContainsRune(c, 0):
			return invalid("%s.UniqueIndex[%d] is %q, must be 1 to %d bytes without NUL", field, i, c, pgschema.MaxName)
		case slices.Contains(v.UniqueIndex[:i], c):
			return invalid("%s.UniqueIndex[%d] is %q, must be another than an earlier column", field, i, c)
		}
	}
	return nil
}

// ident is the quoted name.
func (v View) ident() string { return ident(v.Name) }

// query is the SQL without what may follow a statement.
func (v View) query() string { return strings.TrimRight(v.SQL, "; \t\r\n") }

// ident quotes a name that was checked before.
func ident(name string) string {
	n, err := pgschema.ParseName(name)
	if err != nil {
		panic("matview: a name was not checked: " + name)
	}
	return n.String()
}
