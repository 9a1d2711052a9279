// Package pipeline composes the patterns into a chain: records leave a Redis queue in sealed batches, pass through typed stages (decode,
// dedup, look up, transform), are copied into UNLOGGED staging, and are promoted into a durable table. Every record that was taken from
// the queue is accounted for.
//
// # The problem
//
// Between two stores there is no common transaction. Whatever acknowledges before the commit loses records, whatever acknowledges after it
// doubles them, and a table that a crash empties does both. This package holds the order of steps in which neither happens.
//
// # The guarantee
//
// A record ends in exactly one of: promoted once, duplicate, filtered, rejected with a reason and its payload, or in the queue's dead list. It holds through the
// death of any program at any point, a crash of Postgres that empties the staging tables, a restart of Redis as far as its fsync policy
// keeps what it acknowledged, redelivery, two workers on one batch, and a lost reply. [Flow.Books] adds the columns up.
// Not promised: writes that a failover of Redis, or of Postgres to an asynchronous standby, loses after it has acknowledged them.
//
// # How it works
//
// A [Worker] leases a batch whose membership is sealed, runs the chain over it, stages what remains under the batch's id, and hands the batch off: from then on its
// payloads wait in Redis, the durable copy, until a [Promoter] has committed them. The promoter acknowledges after its commit. If an
// acknowledgement is lost, the ledger, written by that commit, knows the batch. If Postgres crashes, the batch is neither in staging nor in the ledger, and is redelivered.
// A batch that keeps failing is split until the record that does it stands alone in the dead list; before a split its id is made void in the
// ledger, so that a worker that still holds it cannot stage it afterwards. That Postgres is away is never counted against a batch;
// an outage of Redis that outlasts a lease looks like the crash of its worker, and is counted as one.
//
// # Keys and tables
//
// Those of the queue, the window and the table that you give it, plus the pub/sub channel "{name}:signals".
//
// # Cost
//
// A batch costs about ten round trips, so a thousand records or more in a batch make them free. Accounting costs about 2 ns a record
// and stage. Payloads stay in Redis until they are promoted, so its memory must hold what is in flight; put a gate of package backpressure before the producers.
//
// # Failure modes
//
// An error of one record rejects the record. An error or panic of a stage fails the batch, which comes again, later in smaller parts. A transform that
// hangs loses its lease after WorkerConfig.BatchTimeout. Workers and promoters retry while a store is away; they return only when their context ends.
package pipeline
