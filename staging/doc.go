// Package staging loads batches of rows into a Postgres table exactly once, at the speed of COPY.
//
// The problem: COPY into an UNLOGGED table is the fastest way into Postgres, and the easiest way to
// lose data. A crash empties the table. Rows that arrive between INSERT … SELECT and TRUNCATE are
// lost. A redelivered batch is counted twice. This package keeps the speed and avoids all three.
//
// The guarantee: a staged batch is promoted into the target exactly once, or is known not to be
// there and can be staged again. This holds when any program is killed at any point, when Postgres
// crashes, when a batch is redelivered, when two workers hold the same batch, and when the reply to
// a commit is lost. Every record is accounted for: records = kept + duplicates + filtered +
// rejected, and rows of the kept = promoted + conflicts + rejected by a rule. The durable copy of a
// batch is in the queue that it came from. Keep it there until [Table.Promote] has returned the
// batch.
//
// # Tables
//
// A target "orders" has these companion tables in its schema:
//
//	orders_staging_a, _b   UNLOGGED  rows, without indexes and constraints, with the number and
//	                                 position of their record
//	orders_registry_a, _b  UNLOGGED  one row for each staged batch, unique by id, with its counts
//	orders_refused_a, _b   UNLOGGED  records that were rejected before they were staged
//	orders_epoch           UNLOGGED  a marker: a new value after a crash that emptied these tables
//	orders_ledger                    one row for each committed batch: promoted or void, its books
//	orders_rejects                   rejected records and rows with code, reason and payload
//	orders_reject_counts             how many rejects each code has: the sum over its rows
//	orders_control                   which side of each lane is open (a hint), which lanes are
//	                                 retired, and the floor below which the ledger was pruned
//	orders_rewrites                  the progress of each Rewrite; created by the first one
//
// With [Config].Lanes a second lane has orders_staging_a2, _b2, orders_registry_a2 and so on.
//
// [Table.Stage] is one transaction: it looks up the batch in the ledger, inserts it into the
// registry of the open side, and copies the rows. [Table.Promote] flips the sides in a transaction
// of its own. A second transaction then does the rest. It locks the sealed side, which waits for
// COPYs in progress, and compares the staged rows with the counts of the registry. It inserts the
// batches into the ledger, and drops those that are already there. It applies the rules, inserts
// the rows sorted by key, and truncates the side.
//
// # Several tables from one record
//
// [Group] treats several tables as one: an order and its lines, events by type, a row and its audit
// row. Each member keeps its key, rules, conflict policy, merges and tables. A batch is staged into
// all of them in one transaction, and promoted in one transaction, parents before children. The
// foreign keys decide which are parents.
//
// A record is kept whole or not at all: where one table rejects a row, its record is rejected in
// every table, with the code and reason of that row. Conflicts are not rejects: each table skips or
// replaces rows by its own policy.
//
// The first member leads the group. Its ledger decides about a batch, its registry has the counts
// of the records, and it leads no other group. The other ledgers have the rows of their tables. If
// one table has lost its part of a batch, the batch is set aside in all tables and redelivered.
// Programs may also stage into a member alone: each promotion takes its own batches, so such a
// table needs a promoter of its own.
//
// All members are in one database. [SQL] and [Grants] are called for each of them.
//
// # Lanes
//
// One backend of Postgres promotes a lane, however many cores the server has. With Config.Lanes a
// target has several pairs of staging tables. Promotions of different lanes run at the same time.
// The id of a batch decides its lane. The lanes of a target share its ledger, its rejects and its
// books. A batch that is staged into two lanes, because the number of lanes has grown between two
// deliveries, is promoted once: the ledger takes the first, and the other promotion drops its rows.
//
// Promotions of two lanes wait for each other at batch ids, at keys, and at the groups that merges
// write, always in this order and each sorted, so they do not deadlock. A merge of your own has to
// write its groups sorted: end its SELECT with ORDER BY. It may only add to what is there, as ON
// CONFLICT DO UPDATE SET n = x.n + EXCLUDED.n does. A merge that reads other rows and overwrites
// misses what another lane has not committed yet: give it a Then, at least "SELECT 1".
//
// Where the order cannot be kept, one promotion at a time writes into the target, and lanes gain
// little: with triggers, with a unique index or an exclusion constraint besides the key, with row
// security, with generated columns, with Merge.Then or Merge.Replaced, with records of several rows
// where a constraint may refuse one, and after a row that only the insert could refuse.
//
// Batches of two lanes have no order. So [ConflictReplace] needs Newer or ReplaceIf, and a target
// that refers to itself by a foreign key has one lane: New returns [ErrConfig]. If such a key is
// added later, Promote returns [ErrDrift] and rejects nothing. Of several rows with one key,
// ConflictSkip keeps the one that is promoted first. The tables of a group have one lane.
//
// [RetireLanes] reduces the number of lanes while programs run. First start them with a smaller
// Config.Lanes. If promotions return ErrDrift for a foreign key, stop the programs, give the staged
// batches back with [DiscardStaged], and then retire the lanes.
//
// # Cost
//
// A Stage is four round trips, two of them the COPY. A Promote reads the staged rows two or three
// times and writes each once. Staging tables are truncated, never deleted from, so they do not
// bloat.
//
// With [ConflictSkip], a promotion of keys that are spread over a large target does not look them
// up before the insert, as long as there are no conflicts. An insert that meets an existing key is
// repeated, and the next hundred promotions look up their keys first. The failed insert leaves up
// to all of its rows in the target as dead rows for vacuum, an error in the server's log, and gaps
// in sequences.
//
// # Failure modes
//
// When Postgres crashes, staged batches are gone and [Table.Epoch] changes. [Table.Fates] returns
// which batches must be staged again. A failover to an asynchronous standby can lose acknowledged
// commits; the guarantee does not cover that. It does cover a failover to a synchronous one:
// Promote, Void, Fates and Stage report a commit when the standbys of synchronous_standby_names
// have it. They return [ErrNotDurable] after Config.CommitTimeout, also if an administrator has
// cancelled the wait. Staging and reading wait for no standby. If a promoter waits for a COPY that
// makes no progress for Config.StageTimeout, it disconnects the worker. The server ends the COPY of
// a Stage a second after the deadline of the caller's context.
//
// A bad row costs only that row. Staging rejects a row for text that Postgres cannot store (invalid
// UTF-8, NUL, \u0000 in jsonb), for a number out of range, or for a value that only Postgres can
// check. Promotion rejects a row for NOT NULL, CHECK and foreign key constraints of the target, for
// Config.Rules, and for any other reason for which the target refuses it. Where the target refuses
// one row of a record, all rows of the record are rejected. A row that a trigger of the target
// drops without an error is rejected too, with [CodeSuppressed]. [Table.Rejects] lists the rejects;
// [Table.Replay] and [Table.Resolve] end them. A number with more decimals than its column is
// rounded, as INSERT does.
//
// Everything works through PgBouncer in transaction mode, with prepared statements on or off, and
// in every query mode of pgx: the package does not rely on prepared statements.
//
// [Rewrite] is a separate bulk path: a query streams a table, and COPY writes it back.
package staging
