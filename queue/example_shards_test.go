package queue_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/queue"
)

// shards is a queue of two shards that holds the given payloads, on a Redis inside this program.
func shards(by func([]byte) string, payloads ...string) (s *queue.Shards, stop func()) {
	client, stop := throwaway()
	s, err := queue.NewShards(context.Background(), client, "orders", 2, by, queue.Config{})
	check(err)
	for _, p := range payloads {
		check(s.Push(context.Background(), []byte(p)))
	}
	return s, stop
}

// firstByte shards by the first byte of a payload.
func firstByte(p []byte) string { return string(p[:1]) }

func ExampleNewShards() {
	client, stop := throwaway()
	defer stop()
	ctx := context.Background()
	s, err := queue.NewShards(ctx, client, "orders", 2, nil, queue.Config{})
	check(err)
	check(s.Push(ctx, []byte("chair"), []byte("table")))
	for _, q := range s.Queues() {
		fmt.Println(q.Name())
	}
	_, err = queue.NewShards(ctx, client, "orders", 4, nil, queue.Config{})
	var left *queue.ShardsError
	if errors.As(err, &left) {
		fmt.Printf("has %d shards, wanted %d, %d records would be left\n", left.Have, left.Want, left.Records)
	}
	// Output:
	// orders.0.1
	// orders.1
	// has 2 shards, wanted 4, 2 records would be left
}

func ExampleShardName() {
	fmt.Println(queue.ShardName("orders", 0, 2), queue.ShardName("orders", 1, 2))
	// Output: orders.0.1 orders.1
}

func ExampleShards_Queues() {
	s, stop := shards(nil)
	defer stop()
	fmt.Println(len(s.Queues()))
	// Output: 2
}

func ExampleShards_Push() {
	s, stop := shards(firstByte)
	defer stop()
	ctx := context.Background()
	check(s.Push(ctx, []byte("a1"), []byte("b1"), []byte("a2")))
	st, err := s.Stats(ctx)
	check(err)
	fmt.Println(st.Ready)
	// Output: 3
}

func ExampleShards_ShardOf() {
	s, stop := shards(firstByte)
	defer stop()
	fmt.Println(s.ShardOf("a"), s.ShardOf("b"))
	// Output: 1 0
}

func ExampleShards_Lease() {
	s, stop := shards(firstByte, "a1", "a2")
	defer stop()
	ctx := context.Background()
	batch, err := s.Lease(ctx, queue.LeaseOptions{})
	check(err)
	printPayloads(batch)
	fmt.Println(s.Of(batch).Name() == batch.Queue)
	fmt.Println(s.Ack(ctx, batch.ID))
	// Output:
	// a1, a2
	// true
	// 1 <nil>
}

func ExampleShards_TryLease() {
	s, stop := shards(nil)
	defer stop()
	_, err := s.TryLease(context.Background(), queue.LeaseOptions{})
	fmt.Println(err)
	// Output: queue: nothing to lease
}

func ExampleShards_Of() {
	s, stop := shards(nil, "chair")
	defer stop()
	batch, err := s.Lease(context.Background(), queue.LeaseOptions{})
	check(err)
	fmt.Println(s.Of(batch).Name() == batch.Queue)
	// Output: true
}

func ExampleShards_Extend() {
	s, stop := shards(nil, "chair")
	defer stop()
	batch, err := s.Lease(context.Background(), queue.LeaseOptions{})
	check(err)
	fmt.Println(s.Extend(context.Background(), batch, time.Minute))
	// Output: <nil>
}

func ExampleShards_ExtendWaiting() {
	s, stop := shards(nil, "chair")
	defer stop()
	batch, err := s.Lease(context.Background(), queue.LeaseOptions{})
	check(err)
	fmt.Println(s.ExtendWaiting(context.Background(), batch, time.Minute))
	// Output: <nil>
}

func ExampleShards_Handoff() {
	s, stop := shards(nil, "chair")
	defer stop()
	batch, err := s.Lease(context.Background(), queue.LeaseOptions{})
	check(err)
	fmt.Println(s.Handoff(context.Background(), batch))
	// Output: <nil>
}

func ExampleShards_Release() {
	s, stop := shards(nil, "chair")
	defer stop()
	ctx := context.Background()
	batch, err := s.Lease(ctx, queue.LeaseOptions{})
	check(err)
	check(s.Release(ctx, batch, queue.ReleaseOptions{}))
	batch, err = s.Lease(ctx, queue.LeaseOptions{})
	check(err)
	fmt.Println(batch.Attempt)
	// Output: 2
}

func ExampleShards_Settle() {
	s, stop := shards(nil, "chair")
	defer stop()
	batch, err := s.Lease(context.Background(), queue.LeaseOptions{})
	check(err)
	fmt.Println(s.Settle(context.Background(), batch, queue.Resolution{Promoted: true}))
	// Output: <nil>
}

func ExampleShards_Ack() {
	s, stop := shards(nil, "chair")
	defer stop()
	batch, err := s.Lease(context.Background(), queue.LeaseOptions{})
	check(err)
	fmt.Println(s.Ack(context.Background(), batch.ID))
	// Output: 1 <nil>
}

func ExampleShards_Reconcile() {
	s, stop := shards(nil, "chair")
	defer stop()
	ctx := context.Background()
	batch, err := s.Lease(ctx, queue.LeaseOptions{})
	check(err)
	check(s.Handoff(ctx, batch))
	r, err := s.Reconcile(ctx, func(_ context.Context, ids []string) ([]queue.BatchFate, error) {
		return make([]queue.BatchFate, len(ids)), nil // the durable side knows none of them
	}, nil)
	check(err)
	fmt.Println(r.Seen, r.Redelivered)
	// Output: 1 1
}

func ExampleShards_Stats() {
	s, stop := shards(nil, "chair", "table")
	defer stop()
	st, err := s.Stats(context.Background())
	check(err)
	fmt.Println(st.Ready, st.Balanced())
	// Output: 2 <nil>
}
