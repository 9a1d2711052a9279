// Package otelpipeline turns the events of package pipeline into OpenTelemetry metrics and traces.
// It imports the OpenTelemetry API, not the SDK: without a provider it costs next to nothing. A
// program that does not import this package does not link OpenTelemetry.
//
//	o, err := otelpipeline.New(otelpipeline.Config{})
//	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{Observer: o})
//	stop, err := o.Watch(otelpipeline.Stores{Name: "orders", Queue: q, Table: table})
//
// # Metrics of what a program does
//
// The instruments count the events of the program itself, so their sums over all programs are what
// the pipeline did. A Prometheus exporter writes headrace.step.duration as
// headrace_step_duration_seconds.
//
//	headrace.steps            steps, by op and outcome
//	headrace.step.duration    histogram of their duration, by op and outcome
//	headrace.errors           failed steps, by op and error.type
//	headrace.batches          batches of the steps that succeeded, by op
//	headrace.records          records of the steps that succeeded, by op and outcome
//	headrace.rows             rows of promotions, by outcome: promoted, conflict, rejected_by_rule
//	headrace.rejects          rejected records of a transform, by code
//	headrace.stage.values     values of a chain's stage, by stage and direction
//	headrace.stage.duration   histogram of the duration of a chain's stage, by stage
//	headrace.events.missed    events that were dropped because an observer was too slow
//	headrace.in_progress      gauge of what workers have leased and not handed off, by unit:
//	                          batches, records
//	headrace.stuck.age        gauge of how long a step has failed again and again, by step
//
// A transform is counted for each attempt of a batch. What a promotion counts is committed, once.
//
// # Metrics of what the stores hold
//
// [Observer.Watch] adds gauges that read the stores at each collection. They are the same from
// every program, so one program that watches is enough, and the maximum over several is right.
//
//	headrace.queue.records       by state: ready, delayed, in_flight (with a worker, or waiting for
//	                             redelivery), handed_off, dead; a record is in one state
//	headrace.queue.batches       by state: leased, waiting, handed_off, broken
//	headrace.queue.oldest.age    age of the oldest record in flight
//	headrace.queue.paused        1 while the queue is paused
//	headrace.table.staged        what waits for promotion, by unit: batches, records, rows
//	headrace.table.oldest.age    age of the oldest batch that waits for promotion
//	headrace.table.failing.age   how long promotions have failed; 0 if the last one succeeded
//	headrace.dedup.ids           estimate of the ids in the window
//	headrace.dedup.size          bytes of its tables
//	headrace.dedup.lost          tables that were deleted or evicted: duplicates of their ids pass
//	headrace.dedup.window        length of the window
//	headrace.view.age            time since which a view may lack commits, by view
//	headrace.view.populated      1 if the view was ever refreshed
//	headrace.store.up            1 if the last collection could read it, by store
//
// A store that does not answer within Config.Timeout has no values in that collection, and
// headrace.store.up is 0.
//
// # Traces
//
// All spans of a batch are in one trace, whichever programs wrote them. Its id is a digest of the
// batch's id ([TraceID]), so nothing has to travel through the stores, and a sampler that decides
// by trace id decides the same everywhere. A worker's span "headrace.batch" lasts from the lease to
// the hand-off, with the children transform (and one for each of its stages), stage and handoff.
// The promoter adds the spans promote and ack. Each promote span links to the span
// "headrace.promotion" that covers all batches of the promotion, and that one links back. A batch
// that is delivered again has one more span "headrace.batch" in the same trace.
//
// A sampler must not expect a parent: the spans headrace.batch and promote are roots of the trace.
package otelpipeline
