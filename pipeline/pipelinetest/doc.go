// Package pipelinetest holds stores in memory for tests of pipelines, and the conformance suite
// that these and the real stores pass.
//
// [Queue], [Window] and [Table] implement the interfaces of package pipeline. A [pipeline.Flow] of
// them runs a real worker and a real promoter without servers, in microseconds. To test a chain
// alone, pipeline.Try is enough.
//
// [TestQueue], [TestWindow] and [TestTable] specify what a store of your own must do: which calls
// may be repeated, what fences off a worker that has lost its lease, and what a redelivered batch
// may find. Run them against any implementation.
//
// # Limits
//
// Everything ends with the process. Queue redelivers without delay, has no bound in bytes, and
// never polls. Table has no SQL: Reject takes the place of rules, and Key that of a unique key with
// staging.ConflictSkip.
package pipelinetest
