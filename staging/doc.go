// Package staging brings batches of rows into a Postgres table exactly once, at the speed of COPY.
//
// The problem: COPY into an UNLOGGED table is the fastest way into Postgres, and the easiest way to
// lose data. A crash empties the table. Rows that arrive between INSERT … SELECT and TRUNCATE are
// wiped unread. A redelivered batch is counted twice. This package keeps the speed and none of
// that.
//
// The guarantee: a batch that was staged is promoted into the target exactly once, or is known not
// to be there and can be staged again. This holds through a kill of any program at any point, a
// crash of Postgres, a redelivery, two workers on the same batch, and a commit whose reply was
// lost. Every record is accounted for: records = kept + duplicates + filtered + rejected, and rows
// of the kept = promoted + conflicts + rejected by a rule. The durable copy of a batch is the queue
// that it came from. Keep it there until [Table.Promote] has returned the batch.
//
// # Tables
//
// For a target "orders" there are, in its schema:
//
//	orders_staging_a, _b   UNLOGGED  rows, without index and constraint, with the number and
//	                                 position of their record
//	orders_registry_a, _b  UNLOGGED  one row for each staged batch, unique by id, with its counts
//	orders_refused_a, _b   UNLOGGED  records that were rejected before they were staged
//	orders_epoch           UNLOGGED  a marker: a new value after a crash that emptied these tables
//	orders_ledger                    one row for each committed batch: promoted or void, its books
//	orders_rejects                   rejected records and rows with code, reason and payload
//	orders_control                   which side is open (a hint), and the floor below which the
//	                                 ledger was pruned
//
// [Table.Stage] is one transaction: look into the ledger, insert the batch into the registry of the
// open side, COPY. [Table.Promote] flips the sides in a transaction of its own. Then, in one
// transaction, it locks the sealed side, which waits for the COPYs under way; compares staged rows
// with the counts of the registry; inserts the batches into the ledger and drops a batch that is
// there already; applies the rules; inserts the rows sorted by key; and truncates the side.
//
// # Cost
//
// A Stage is four round trips, one of them the COPY. A Promote reads the staged rows two or three
// times and writes each once. Staging tables are truncated, never deleted from, so they do not
// bloat.
//
// With [ConflictSkip], keys that are spread over a large target are not looked up before the insert
// while none of them is there already. The insert that meets the first such key is repeated, and
// the next hundred promotions look up their keys first. That insert leaves up to all of its rows
// dead in the target for vacuum, an error in the server's log, and gaps in sequences.
//
// # Failure modes
//
// When Postgres crashes, staged batches are gone and [Table.Epoch] changes. [Table.Fates] returns
// which batches must be staged again. A failover to an asynchronous standby can lose commits that
// were acknowledged: that is not promised. A promoter that waits for a COPY which stands still for
// Config.StageTimeout disconnects its worker.
//
// A row that breaks something costs only that row. When its record is staged, a row is rejected for
// text that Postgres cannot take (UTF-8, NUL, \u0000 in jsonb), a number out of range, or a value
// that only Postgres can judge. When it is promoted, a row is rejected for NOT NULL, CHECK and
// foreign keys of the target, Config.Rules, and anything else for which the target refuses it.
// [Table.Rejects] lists them; [Table.Replay] and [Table.Resolve] end them. A number with more
// decimals than its column is rounded, as INSERT does.
//
// Everything works through PgBouncer in transaction mode, with prepared statements on and off, and
// in every mode of pgx: the package's own statements need no prepared ones.
//
// [Rewrite] is the bulk path beside all this: a query streams a table, COPY writes it back.
package staging
