// Command demo runs the main job end to end: it generates orders, with duplicates and bad ones
// among them, pushes them into a Redis queue, decodes, deduplicates and enriches them in batches,
// stages them in Postgres, promotes them together with three dashboards, and shows the books: what
// became of every record. It exits with 1 if they do not balance.
//
// Look at run.go for the wiring of a whole pipeline in one program; package examples/orders holds
// the parts that the separate programs (producer, worker, promoter) share. The servers are
// throwaway ones, unless REDIS_URL and DATABASE_URL name yours.
package main

import "github.com/headrace/headrace/examples/orders"

const help = `
Usage: demo [flags]

Runs the whole job: generates orders, pushes them into Redis, decodes,
deduplicates, enriches and stages them, promotes them in Postgres with three
dashboards, and compares the books with what was generated. It starts throwaway
servers, or uses REDIS_URL and DATABASE_URL, where it leaves nothing behind.

Example:
  demo -orders 1000000 -duplicates 0.1
`

func main() { orders.MainJob("demo", help, run) }
