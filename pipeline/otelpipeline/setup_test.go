package otelpipeline_test

import (
	"context"
	"log"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/queue"
)

// pushed returns a queue with some records.
func pushed(ctx context.Context, name string, payloads ...string) (q *queue.Queue, done func()) {
	server, err := miniredis.Run()
	check(err)
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr()}, DisableCache: true})
	check(err)
	q, err = queue.New(ctx, client, name, queue.Config{Eviction: queue.EvictionIgnore})
	check(err)
	for _, p := range payloads {
		check(q.Push(ctx, []byte(p)))
	}
	return q, func() { client.Close(); server.Close() }
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
