// Package matview keeps dashboards off the live tables, in two ways: materialized views that are refreshed by rules, and
// roll-ups that are merged from what a promotion has just brought.
//
// # Use a Refresher when
//
// the answer needs the whole table (distinct customers, percentiles, joins), and may be a little old. A [Refresher] creates the
// views that are missing, says which existing one has drifted from its definition, and refreshes them in dependency order:
// CONCURRENTLY where Postgres can, so readers are never blocked; one at a time across all processes; calls that come while a
// refresh runs share the next one; and a view is left alone when nothing was promoted since its last refresh. The cost of a
// refresh is that of its query over the whole table, whatever has changed.
//
// # Use a Rollup when
//
// the answer is made of sums, counts, minima and maxima by group. A [Rollup] is an ordinary table. [Rollup.Merge] is a statement
// that adds the promoted rows to it inside the promotion's own transaction, so it is always as fresh as the target, it can never
// count a row twice, and it costs what the new rows cost. Averages are a sum by a count at read time. Distinct counts and
// medians cannot be merged: they need a view.
//
// # Guarantees
//
// A view that [Report] calls refreshed or unchanged holds everything that was committed when Refresh was called, and so do the
// views below it. A roll-up equals the same aggregate over the target after every commit, provided that rows reach the target through the
// promotion alone: an UPDATE or DELETE there, or a conflict policy that replaces rows, is not seen. [Rollup.Check] compares
// and says where they differ, [Rollup.Rebuild] puts it right.
//
// # Tables
//
// headrace_views holds one row a view: what was refreshed when, how long it took, and the caller's version token. Locks are
// transaction-scoped advisory locks, so everything works through PgBouncer in transaction mode. The catalogue of a view or a
// roll-up is compared by building the wanted one in a transaction that is rolled back: the role needs TEMPORARY on the
// database, which it has by default.
//
// # Failure modes
//
// A refresh that dies leaves the view as it was, and the token too. A view without a unique index on plain columns is refreshed
// under an exclusive lock: its readers wait, and the report says so. A roll-up whose type overflows fails its promotion,
// and the batches stay staged: choose numeric or bigint. Group expressions must not depend on the session: write
// date_trunc('hour', t, 'UTC'), or two sessions in two time zones fill two sets of hours.
package matview
