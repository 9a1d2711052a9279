// Package matview keeps dashboards off the live tables, in two ways: materialized views that are
// refreshed by rules, and roll-ups into which each promotion merges its rows.
//
// # Use a Refresher when
//
// the answer needs the whole table (distinct customers, percentiles, joins) and may be a little
// old. [New] creates the views that are missing and finds one that differs from its definition.
// [Refresher.Refresh] refreshes them in the order in which they read each other: CONCURRENTLY where
// Postgres can, so that readers are never blocked; one at a time across all processes; once for all
// calls that arrive while a refresh is under way; and not at all when nothing was promoted since
// the last refresh. A refresh costs what its query over the whole table costs, whatever has
// changed.
//
// # Use a Rollup when
//
// the answer is made of sums, counts, minima and maxima by group. A [Rollup] is an ordinary table.
// [Rollup.Merge] is a statement that adds the promoted rows to it inside the promotion's own
// transaction: it is always as fresh as the target, it never counts a row twice, and it costs what
// the new rows cost. An average is a sum divided by a count when you read. Distinct counts and
// medians cannot be merged: they need a view.
//
// # Guarantees
//
// A view that [RefreshReport] lists as refreshed, unchanged or shared holds everything that was
// committed when Refresh was called, and so do the views that it reads. Clocks play no part in
// that: a server whose clock went back, or was ahead, skips no refresh.
//
// A roll-up equals the same aggregate over the target after every commit, to the last decimal: a
// sum that would be rounded is refused. That holds as long as rows reach the target through the
// promotion alone. A roll-up does not see an UPDATE or a DELETE there, or a conflict policy that
// replaces rows. [Rollup.Check] compares it with the target, [Rollup.Rebuild] recomputes it.
//
// # Tables
//
// For a set of views "dashboard", dashboard_views holds one row for each view: its query, when it
// was refreshed and how long that took, and the caller's version token. [SQL] and [Rollup.SQL]
// return the schema for a migration tool; with Config.NoCreate and [Rollup.Verify] the program
// creates nothing. A role that refreshes owns the views (since PostgreSQL 17 MAINTAIN is enough)
// and has SELECT, INSERT and UPDATE on the state table. The owner reads what the views read; where
// a view has a unique index it has TEMPORARY on the database, because Postgres' concurrent refresh
// makes a temporary table. A role that promotes has SELECT, INSERT and UPDATE on the roll-ups. New,
// Create and Verify name everything that is missing in one error.
//
// Each transaction runs in READ COMMITTED with time limits of its own, whatever the defaults of the
// server, the database or the role are. Locks are transaction-scoped advisory locks, so everything
// works through PgBouncer in transaction mode. Queries and expressions see the search path,
// TimeZone and DateStyle of the session, as in any other program.
//
// # Failure modes
//
// A refresh that fails leaves the view as it was, and the token too. A view without a unique index
// on plain columns is refreshed under an exclusive lock: its readers wait, and the report has the
// reason. A sum that exceeds its type fails the promotion, and the batches stay staged: choose
// numeric. An expression that depends on the session, such as date_trunc('hour', t) of a
// timestamptz, makes two sets of groups in sessions of two time zones: write date_trunc('hour', t,
// 'UTC').
//
// A role that may create neither a temporary view nor one beside the view, and a program with
// Config.NoCreate, compares a view with its definition by columns and by the recorded text: there,
// a query that is only spelled differently is a drift.
package matview
