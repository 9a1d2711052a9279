// Package pipeline composes the patterns into one pipeline. Records leave a Redis queue in sealed
// batches, pass through typed stages (decode, dedup, look up, transform), are copied into UNLOGGED
// staging tables, and are promoted into a durable table. Every record taken from the queue is
// accounted for.
//
// # The problem
//
// Two stores share no transaction. If a program acknowledges before the commit, a crash in between
// loses records. If it acknowledges after the commit, a crash duplicates them. A table that a crash
// empties can do both. This package prescribes an order of steps in which neither happens.
//
// # The guarantee
//
// Each record ends in exactly one of five ways: promoted once, dropped as a duplicate, filtered,
// rejected with a reason and its payload, or buried in the queue's dead-letter list. This holds
// when any program dies at any point, when a crash of Postgres empties the staging tables, when
// Redis restarts (as far as its fsync policy keeps acknowledged writes), when a batch is
// redelivered, when two workers hold one batch, and when a reply is lost. [Flow.Books] adds up the
// figures.
//
// The guarantee does not cover acknowledged writes that a failover of Redis, or of Postgres to an
// asynchronous standby, loses.
//
// # How it works
//
// A [Worker] leases a batch whose membership is sealed, runs the chain over it, stages the rows
// under the batch's id, and hands the batch off. From then on Redis keeps the payloads, as the
// durable copy, until a [Promoter] has committed the rows. The promoter acknowledges after its
// commit. If an acknowledgement is lost, the ledger still has the batch, because the same commit
// wrote it. If Postgres crashes, the batch is in neither staging nor the ledger, and is
// redelivered.
//
// A batch that keeps failing is split until the record at fault is alone in the dead-letter list.
// Before a split, the batch's id is made void in the ledger, so that a worker that still holds the
// batch cannot stage it afterwards.
//
// # What to use
//
//   - For a chain: [Decode], [Dedup], [Lookup], [Map] and the other functions that return a
//     [Stage], joined by [Then]. [Try] tests a chain without servers.
//   - For a program: [NewWorker], [NewPromoter], [Run] and [Await].
//   - For input: [Feed] pushes the lines of a file, [Relay] the rows of a Postgres query.
//   - For an answer: [Flow.Books], [Flow.Find], [Flow.Drain], or an [Observer].
//   - For a Redis Cluster: [NewShards].
//
// Package console is a web page over all this, otelpipeline exports metrics and traces, and
// pipelinetest has stores in memory for tests.
//
// # What counts against a batch
//
// An error or a panic of a stage counts as a failure. An expired lease counts as a crash, also that
// of a transform that exceeds [WorkerConfig.BatchTimeout]. An unavailable Postgres and a wrong
// configuration never count. An outage of Redis that outlasts a lease looks like the crash of its
// worker, and counts as one.
//
// # Keys and tables
//
// They are those of the queue, the dedup window and the table in the [Flow]. [Signals] add the
// Pub/Sub channel "{name}:signals" and the hash "{name}:signals:stalls".
//
// # Cost
//
// A batch takes about ten round trips, which cost little with a thousand records or more per batch.
// Accounting costs about 2 ns per record and stage. Payloads stay in Redis until they are promoted,
// so its memory must hold all records in flight. Put a gate of package backpressure in front of the
// producers.
//
// # Failure modes
//
// An error of one record rejects the record. An error or a panic of a stage fails the batch, which
// is redelivered, later in smaller parts. Workers and promoters retry while a store is unavailable.
// They return when their context ends, or when the program has closed their client or pool.
package pipeline
