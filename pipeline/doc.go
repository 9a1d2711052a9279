// Package pipeline composes the patterns into one pipeline. Records leave a Redis queue in sealed
// batches, pass through typed stages (decode, dedup, look up, transform), are copied into UNLOGGED
// staging tables, and are promoted into a durable table. Every record taken from the queue is
// accounted for.
//
// # The problem
//
// Two stores share no transaction. A program that acknowledges before the commit loses records. A
// program that acknowledges after the commit duplicates them. A table that a crash empties does
// both. This package fixes the order of steps in which neither happens.
//
// # The guarantee
//
// Each record ends in exactly one of five ways: promoted once, dropped as a duplicate, filtered,
// rejected with a reason and its payload, or buried in the queue's dead-letter list. This holds
// through the death of any program at any point, a crash of Postgres that empties the staging
// tables, a restart of Redis as far as its fsync policy keeps what it acknowledged, redelivery, two
// workers on one batch, and a lost reply. [Flow.Books] adds up the columns.
//
// Not promised: writes that a failover of Redis, or of Postgres to an asynchronous standby, loses
// after they were acknowledged.
//
// # How it works
//
// A [Worker] leases a batch whose membership is sealed, runs the chain over it, stages the rows
// under the batch's id, and hands the batch off. From then on the payloads wait in Redis, the
// durable copy, until a [Promoter] has committed the rows. The promoter acknowledges after its
// commit. If an acknowledgement is lost, the ledger, which that commit wrote, knows the batch. If
// Postgres crashes, the batch is in neither staging nor the ledger, and is redelivered.
//
// A batch that keeps failing is split until the record at fault stands alone in the dead-letter
// list. Before a split, the batch's id is made void in the ledger, so that a worker that still
// holds the batch cannot stage it afterwards.
//
// # What counts against a batch
//
// An error or a panic of a stage, and a transform that outlasts [WorkerConfig.BatchTimeout]. A
// lease that expires counts as a crash. An unavailable Postgres and a wrong configuration never
// count. An outage of Redis that outlasts a lease looks like the crash of its worker, and counts as
// one.
//
// # Keys and tables
//
// Those of the queue, the dedup window and the table in the [Flow], and the pub/sub channel
// "{name}:signals".
//
// # Cost
//
// A batch costs about ten round trips, so with a thousand records or more per batch they are nearly
// free. Accounting costs about 2 ns per record and stage. Payloads stay in Redis until they are
// promoted, so its memory must hold what is in flight. Put a gate of package backpressure before
// the producers.
//
// # Failure modes
//
// An error of one record rejects the record. An error or a panic of a stage fails the batch, which
// is redelivered, later in smaller parts. A transform that hangs loses its lease after
// [WorkerConfig.BatchTimeout]. Workers and promoters retry while a store is unavailable. They
// return only when their context ends.
package pipeline
