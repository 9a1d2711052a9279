// Package matview keeps dashboards off the live tables, in two ways: materialized views that are
// refreshed in order, and roll-ups into which each promotion merges its rows.
//
// # Refresher
//
// Use a [Refresher] when the answer needs the whole table (medians, percentiles, joins) and may be
// a little old. [New] creates missing views and reports a view that differs from its definition.
// [Refresher.Refresh] takes the views in the order in which they read each other. It refreshes
// CONCURRENTLY where Postgres can, so that readers are never blocked. Across all processes it
// refreshes a view once at a time. All calls that arrive during a refresh share the next one. With
// Config.Changed it skips views whose tables have not changed. A refresh costs as much as its query
// over the whole table, however little has changed.
//
// # Rollup
//
// Use a [Rollup] when the answer consists of sums, counts, averages, minima, maxima and distinct
// counts by group. It is an ordinary table. [Rollup.Merges] returns the statements that add the
// promoted rows to it inside the promotion's own transaction. So the roll-up is always as fresh as
// the target, it never counts a row twice, and its cost depends on the new rows alone. An average
// is a sum and a count, and a column generated from them. Distinct counts are exact, from a table
// of values next to the roll-up, or estimates from a sketch that merges across groups. Medians
// cannot be merged: they need a view.
//
// For a coarser level, days from hours, read a view over the roll-up: it adds up sums and counts,
// divides the sum of the sums by that of the counts, and merges sketches with bit_or. Exact
// distinct counts do not add up: they need a second roll-up of the same table.
//
// # Guarantees
//
// A view that [RefreshReport] lists as refreshed, unchanged or shared holds everything that was
// committed when Refresh was called, and so do the views that it reads. This does not depend on
// clocks: a server whose clock is set back, or is ahead, skips no refresh.
//
// After every commit, a roll-up equals the same aggregate over the target, to the last decimal:
// Create rejects a sum that would be rounded. This holds as long as rows reach the target only
// through promotions; with Rollup.Replaces, promotions may replace rows. A roll-up does not see an
// UPDATE, a DELETE or a TRUNCATE there, nor that a table or a column has taken the name of another.
// [Rollup.Check] compares it with the target; [Rollup.Rebuild] recomputes it. Promotions go on
// meanwhile, except while Rebuild repairs, or fills a roll-up with Rollup.Replaces.
//
// # Tables
//
// For a set of views "dashboard", dashboard_views holds one row for each view: its query, when it
// was refreshed and how long that took, and the caller's version token. [Open] reads the set from
// it, for a program without the definitions.
//
// [SQL] and [Rollup.SQL] return the schema for a migration tool; with Config.NoCreate and
// [Rollup.Verify] the program creates nothing. A role that refreshes must own the views (since
// PostgreSQL 17 MAINTAIN is enough) and needs SELECT, INSERT and UPDATE on the state table. The
// owner needs SELECT on all that the views read. If a view has a unique index, the owner also needs
// TEMPORARY on the database, because a concurrent refresh in Postgres creates a temporary table. A
// role that promotes needs SELECT, INSERT and UPDATE on the roll-ups and on their tables of
// distinct values (roll-up "sales", measure "customers": sales_customers, and
// sales_customers_values or the Measure.Dictionary), with Rollup.Replaces also DELETE. New, Create
// and Verify list everything that is missing in one error.
//
// Each transaction runs in READ COMMITTED with time limits of its own, whatever the defaults of the
// server, the database or the role are. Its commit waits for no synchronous standby. A failover may
// lose the newest Refresh or Rebuild, but none from before a promotion that the standby has. Locks
// are transaction-scoped advisory locks, so everything works through PgBouncer in transaction mode.
// Queries of views see the search path, TimeZone and DateStyle of the session, as in any other
// program. The expressions of a roll-up print dates, intervals, floating-point numbers and bytea as
// a promotion of package staging does.
//
// # Failure modes
//
// A failed refresh leaves the view and its token as they were. A view without a unique index on
// plain columns is refreshed under an exclusive lock: its readers wait, and the report gives the
// reason. A sum that exceeds its type fails the promotion, and the batches stay staged: choose
// numeric, for money with (price)::numeric as the expression. Since PostgreSQL 17 a refresh runs
// functions with a search path of pg_catalog and pg_temp: a function that names tables without a
// schema needs SET search_path, or it fails.
//
// The comment of a roll-up's table records the definition. Create and Verify refuse a roll-up that
// holds rows of another one, until Rebuild has made it this one. Where an expression depends on the
// session's TimeZone or DateStyle, so does the definition: see [Column]. A dictionary that was
// dropped or emptied is refused too: every roll-up that counts with it needs a Rebuild. So does a
// roll-up that has rows while its table of distinct values has none, or the other way round.
//
// The numbers of distinct values come from a sequence, which logical replication leaves out. On a
// subscriber that takes over, the first promotion with a new value fails with a unique violation,
// and nothing is lost: run SELECT setval(pg_get_serial_sequence('sales_customers_values',
// 'headrace_number'), max(headrace_number)) FROM sales_customers_values.
//
// New usually compares a view with its definition by creating that definition elsewhere for a
// moment. A role that may not create views, and a program with Config.NoCreate, compares the
// columns and the recorded text instead. Then a query that differs only in spelling counts as
// drift.
package matview
