// Package console is a web page that shows where every record of a pipeline is, as an
// http.Handler.
//
// # The problem
//
// Inspecting a pipeline on two stores takes two clients, which show keys and tables but not
// records. At three in the morning the questions are different: is anything lost or stuck? How far
// behind is it? What was rejected, and why? Where is record X?
//
// # Use
//
//	h, err := console.New(console.Config{
//		Pipelines: []console.Pipeline{console.Of(flow, redis, postgres)},
//		Authorize: allow,
//	})
//	mux.Handle("/headrace/", http.StripPrefix("/headrace", h))
//
// [Of] takes the flow that the workers and the promoter have, [Open] the names of a queue and a
// table. All links are relative, so the handler can be mounted at any path and be behind a
// proxy. It works without JavaScript, which only reloads the figures.
//
// # The guarantee
//
// The console only reads, unless Config.Authorize is set. Then that function decides about each
// action, both when its page is shown and when it is done. The server enforces this; the pages only
// follow. Before an action its page states what it will do and how many records it touches. An
// action is a POST from the console's own origin, and is logged with who did it.
//
// Payloads and ids are data: they are escaped, and what does not print is shown as an escape. A
// strict Content-Security-Policy allows the console's own style sheet and script and nothing else.
//
// # Cost
//
// All pages share the answer of each query to a store. One call at a time repeats the query, only
// when a page needs it, and only when the answer is older than Config.Interval and than nine times
// the duration of the last call. So the stores have the same work however many people watch. Every
// query is one script on Redis (two for each list of windows), or a few statements on Postgres that
// use an index and have a limit. The exception is the sum of the ledger: the whole is summed once
// in 15 minutes, and its last minutes each time. No page waits for the sum of a ledger of more than
// some 50,000 batches: until the first one is there, about a second for a million batches, the
// overview states that the ledger is being summed. With up to 500 batches handed off the books also
// read each of these.
//
// # Failure modes
//
// An answer that is not older than three intervals is shown at once, while the next one is read.
// Otherwise a page waits Config.Timeout for the stores, and is then shown with what there is: the
// old answer with its time, or nothing, and in any case the reason. A store that hangs holds one
// call for each question, which ends after 10 s.
//
// The history of committed batches comes from the ledger. Depths are kept in this process, for an
// hour and only while [Handler.Run] runs; the chart shows where they begin.
//
// # JSON
//
// Every page is also JSON: append .json to its name, or send Accept: application/json. The fields
// are those of the types named here.
//
//	index.json               [Index]        all pipelines
//	p/NAME/overview.json     [Overview]     the books, depths, throughput, rejects by code
//	p/NAME/queue.json        [QueuePage]    head of the ready list, batches in flight
//	p/NAME/dead.json         [DeadPage]     ?reason= ?after= ?id=
//	p/NAME/rejects.json      [RejectsPage]  ?code= ?source= ?within= ?resolved= ?before= ?id=
//	p/NAME/find.json         [FindPage]     ?id=
//	p/NAME/batches.json      [BatchesPage]  ?kind= ?before= ?id=
//	p/NAME/tables.json       [TablesPage]   lookups, windows, views; ?window= ?list= ?after=
//	p/NAME/health.json       [HealthPage]   what the servers are like, the last actions
//	p/NAME/do.json           [ActionPage]   ?action= …: what it will do; POST does it
//	livez, readyz            text           the process; both stores of each pipeline
//
// A duration in JSON is in nanoseconds (its name ends in _ns, or it is a field of another package),
// a time is RFC 3339. "warnings" lists what could not be read.
package console
