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
// The stores keep everything in memory and forget it with the process. Queue has no delay between
// redeliveries, no bytes bound, and polls nothing. Table has no SQL: Reject takes the place of a
// rule and Key for a unique key with the policy to keep the first row.
package pipelinetest
