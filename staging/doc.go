// Package staging brings batches of rows into a Postgres table exactly once, at the speed of COPY.
//
// The problem: COPY into an UNLOGGED table is the fastest way into Postgres, and the easiest way to lose data: a crash
// empties the table, rows that arrive between INSERT … SELECT and TRUNCATE are wiped unread, and a redelivered batch is
// counted twice. This package keeps the speed and none of that.
//
// The guarantee: a batch that was staged is promoted into the target exactly once, or is known not to be there and can
// be staged again: through a kill of any program at any point, a crash of Postgres, a redelivery, two workers on the
// same batch, a commit whose reply was lost. Every record is accounted for: records = kept + duplicates + filtered +
// rejected, and rows of the kept = promoted + conflicts + rejected by a rule. The durable copy of a batch is the queue
// that it came from; keep it there until [Table.Promote] has named the batch.
//
// How it works. For a target "orders" there are, in its schema:
//
//	orders_staging_a, _b     UNLOGGED  rows, no index, no constraint, with the number and position of their record
//	orders_registry_a, _b    UNLOGGED  one row a staged batch, unique by id, with its counts
//	orders_refused_a, _b     UNLOGGED  records that were rejected before they were staged
//	orders_epoch             UNLOGGED  a marker: a new value says that a crash has emptied the tables above
//	orders_ledger            one row a committed batch: promoted or void, with its books
//	orders_rejects           rejected records and rows with code, reason and payload
//	orders_control           which side is open (a hint), and the floor under which the ledger was pruned
//
// [Table.Stage] is one transaction: look into the ledger, insert the batch into the registry of the open side, COPY.
// [Table.Promote] flips the sides in a transaction of its own; then, in one transaction, it locks the sealed side (which
// waits for the COPYs under way), compares staged rows with the registry's counts, inserts the batches into the ledger
// (a batch that is there already is dropped), applies the rules, inserts the rows sorted by key, and truncates.
//
// The cost: a Stage is four round trips, one of them the COPY; a Promote reads the staged rows two or three times and writes
// each once. Staging tables are truncated, never deleted from, so they do not bloat. With [Skip], keys that are spread over
// a large target are not looked up before the insert while none is met that is there already; the insert that meets the
// first is done again, and the next hundred promotions look first. It leaves up to its rows dead in the target for vacuum, an
// error in the server's log, and gaps in sequences.
//
// Failure modes: when Postgres crashes, staged batches are gone and [Table.Epoch] changes; [Table.Fates] says which
// batches must come again. A failover to an asynchronous standby can lose commits that were answered: not promised.
// A worker whose COPY stands still for Config.StageTimeout is disconnected by a promoter that waits for it.
//
// Everything works through PgBouncer in transaction mode, with prepared statements on and off, in every mode of pgx: the
// package's own statements need no prepared ones.
//
// What a row breaks costs that row. Text that Postgres cannot take (UTF-8, NUL, \u0000 in jsonb), numbers out of range and
// values that only Postgres can judge are rejected with their record when it is staged; NOT NULL, CHECK and foreign keys of
// the target, Config.Rules and whatever else the target refuses, when it is promoted. [Table.Rejects] lists them,
// [Table.Replay] and [Table.Resolve] end them. A number with more decimals than its column is rounded, as INSERT does.
//
// [Rewrite] is the bulk path beside all this: a query streams a table, COPY writes it back.
package staging
