package matview

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// The defaults of [Config].
const (
	DefaultStateTable  = "headrace_views"
	DefaultTimeout     = 15 * time.Minute
	DefaultLockTimeout = 30 * time.Second
)

// View is one materialized view.
type View struct {
	// Name of the view, "view" or "schema.view", spelled as in the catalogue: it is quoted, so "Sales" and "sales" are two.
	Name string
	// SQL is the query, without a semicolon. It is code: never build it from input.
	SQL string
	// UniqueIndex names the columns that identify a row. It is what allows a concurrent refresh; without it readers wait.
	// NULLs in these columns are allowed, but their rows are rewritten at every refresh.
	UniqueIndex []string
	// DependsOn names views of the same Config that SQL reads. They are refreshed first, also when only this one is asked for.
	DependsOn []string
}

// Config configures a [Refresher].
type Config struct {
	// Views in any order; the dependencies order them.
	Views []View
	// Changed returns a token that differs whenever the tables under the views have changed, for example the number and
	// the newest time of the commits in the ledger. A view whose last refresh had this token is skipped. The token of
	// a maximum alone can hide a commit that became visible late; add the count. nil means: never skip.
	Changed func(ctx context.Context) (string, error)
	// Populate fills new views when they are created. The default creates them empty: reading one is an error
	// until its first Refresh, and a service starts without waiting for a query over the whole table.
	Populate bool
	// StateTable holds one row a view. "table" or "schema.table". Default [DefaultStateTable].
	StateTable string
	// Timeout bounds one view's refresh, on the server. Default [DefaultTimeout].
	Timeout time.Duration
	// LockTimeout bounds the wait for a lock: for another process that refreshes the same view, or for
	// readers where the refresh is not concurrent. Default [DefaultLockTimeout].
	LockTimeout time.Duration
	// SkipAnalyze leaves out the ANALYZE after a refresh, without which neither the planner nor [Freshness] knows
	// how many rows a view has until autovacuum comes by.
	SkipAnalyze bool
}

func (c Config) withDefaults() Config {
	c.StateTable = cmp.Or(c.StateTable, DefaultStateTable)
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.LockTimeout = cmp.Or(c.LockTimeout, DefaultLockTimeout)
	return c
}

func (c Config) validate() error {
	if len(c.Views) == 0 {
		return fmt.Errorf("matview: Config.Views is empty: must name at least 1 view")
	}
	if _, err := parseName(c.StateTable); err != nil {
		return fmt.Errorf("matview: Config.StateTable: %w", err)
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"Timeout", c.Timeout}, {"LockTimeout", c.LockTimeout}} {
		if d.value < time.Millisecond || d.value > 24*time.Hour {
			return fmt.Errorf("matview: Config.%s is %v: must be 1ms to 24h", d.field, d.value)
		}
	}
	seen := make(map[string]bool, len(c.Views))
	for i, v := range c.Views {
		if _, err := parseName(v.Name); err != nil {
			return fmt.Errorf("matview: Config.Views[%d].Name: %w", i, err)
		}
		if seen[v.Name] {
			return fmt.Errorf("matview: Config.Views[%d].Name is %q: already used by another view", i, v.Name)
		}
		seen[v.Name] = true
		if v.SQL == "" {
			return fmt.Errorf("matview: Config.Views[%d].SQL (view %s) is empty: must be a query", i, v.Name)
		}
		for j, c := range v.UniqueIndex {
			if c == "" {
				return fmt.Errorf("matview: Config.Views[%d].UniqueIndex[%d] (view %s) is empty: must be a column", i, j, v.Name)
			}
		}
	}
	for i, v := range c.Views {
		for j, d := range v.DependsOn {
			if !seen[d] {
				return fmt.Errorf("matview: Config.Views[%d].DependsOn[%d] (view %s) is %q: must be the Name of a view in Config.Views", i, j, v.Name, d)
			}
		}
	}
	return nil
}
