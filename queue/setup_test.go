package queue_test

import (
	"context"
	"fmt"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/queue"
)

// throwaway is a Redis inside this program, for the examples. A service gives New the client that
// it has.
func throwaway() (rueidis.Client, func()) {
	s, err := miniredis.Run()
	check(err)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Addr()}, DisableCache: true, ForceSingleClient: true})
	check(err)
	return c, func() { c.Close(); s.Close() }
}

// orders is a queue on such a Redis that holds the given payloads.
func orders(cfg queue.Config, payloads ...string) (q *queue.Queue, stop func()) {
	client, stop := throwaway()
	q, err := queue.New(context.Background(), client, "orders", cfg)
	check(err)
	for _, p := range payloads {
		check(q.Push(context.Background(), []byte(p)))
	}
	return q, stop
}

// check ends an example that cannot go on.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

// printPayloads prints a batch on one line.
func printPayloads(b *queue.Batch) {
	for i, p := range b.Payloads {
		if i > 0 {
			fmt.Print(", ")
		}
		fmt.Printf("%s", p)
	}
	fmt.Println()
}
