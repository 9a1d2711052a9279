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

func ExampleShards_Name() {
	s, stop := shards(nil)
	defer stop()
	fmt.Println(s.Name(), s.Queues()[1].Name())
	// Output: orders orders.1
}

func ExampleShards_OfID() {
	s, stop := shards(nil, "chair")
	defer stop()
	batch, err := s.Lease(context.Background(), queue.LeaseOptions{})
	check(err)
	fmt.Println(s.OfID(batch.ID).Name() == batch.Queue)
	// Output: true
}

func ExampleShards_PushKeyed() {
	s, stop := shards(firstByte)
	defer stop()
	ctx := context.Background()
	check(s.PushKeyed(ctx, []string{"a", "a"}, [][]byte{[]byte("a1"), []byte("a2")}))
	batch, err := s.Lease(ctx, queue.LeaseOptions{})
	check(err)
	printPayloads(batch)
	// Output: a1, a2
}

func ExampleShards_PushGated() {
	s, stop := shards(firstByte)
	defer stop()
	acquire := func(_ context.Context, shard *queue.Queue, records int, bytes int64) (release func(), err error) {
		fmt.Printf("room for %d records of %d bytes in %s\n", records, bytes, shard.Name())
		return func() {}, nil
	}
	check(s.PushGated(context.Background(), acquire, []byte("a1"), []byte("a2")))
	// Output: room for 2 records of 4 bytes in orders.1
}

func ExampleShardsPushError() {
	s, stop := shards(firstByte)
	defer stop()
	full := func(_ context.Context, shard *queue.Queue, _ int, _ int64) (func(), error) {
		if shard == s.Queues()[0] {
			return nil, queue.ErrFull
		}
		return func() {}, nil
	}
	err := s.PushGated(context.Background(), full, []byte("a1"), []byte("b1"), []byte("a2"))
	var failed *queue.ShardsPushError
	if errors.As(err, &failed) {
		fmt.Println(failed.Rest, errors.Is(err, queue.ErrFull))
	}
	// Output: [1] true
}

func ExampleShards_AckWith() {
	s, stop := shards(nil, "chair")
	defer stop()
	batch, err := s.Lease(context.Background(), queue.LeaseOptions{})
	check(err)
	fmt.Println(s.AckWith(context.Background(), queue.Ack{ID: batch.ID}))
	// Output: 1 <nil>
}

func ExampleShards_Get() {
	s, stop := shards(nil, "chair")
	defer stop()
	ctx := context.Background()
	batch, err := s.Lease(ctx, queue.LeaseOptions{})
	check(err)
	again, err := s.Get(ctx, batch.ID)
	check(err)
	printPayloads(again)
	// Output: chair
}

func ExampleShards_HandedOff() {
	s, stop := shards(nil, "chair", "table")
	defer stop()
	ctx := context.Background()
	for range 2 {
		batch, err := s.Lease(ctx, queue.LeaseOptions{})
		check(err)
		check(s.Handoff(ctx, batch))
	}
	handed, err := s.HandedOff(ctx)
	check(err)
	fmt.Println(len(handed))
	// Output: 2
}

func ExampleShards_Pause() {
	s, stop := shards(nil, "chair")
	defer stop()
	ctx := context.Background()
	check(s.Pause(ctx))
	_, err := s.TryLease(ctx, queue.LeaseOptions{})
	fmt.Println(err)
	// Output: queue: paused
}

func ExampleShards_Resume() {
	s, stop := shards(nil, "chair")
	defer stop()
	ctx := context.Background()
	check(s.Pause(ctx))
	check(s.Resume(ctx))
	batch, err := s.TryLease(ctx, queue.LeaseOptions{})
	check(err)
	printPayloads(batch)
	// Output: chair
}

func ExampleShards_Audit() {
	s, stop := shards(nil, "chair")
	defer stop()
	reports, err := s.Audit(context.Background())
	check(err)
	for _, r := range reports {
		fmt.Println(r.Balanced())
	}
	// Output:
	// <nil>
	// <nil>
}

func ExampleShards_Batches() {
	s, stop := shards(nil, "chair")
	defer stop()
	ctx := context.Background()
	batch, err := s.Lease(ctx, queue.LeaseOptions{})
	check(err)
	info, err := s.Batches(ctx, batch.ID)
	check(err)
	fmt.Println(info[0].State, info[0].Records)
	// Output: leased 1
}

func ExampleShards_InFlight() {
	s, stop := shards(nil, "chair")
	defer stop()
	ctx := context.Background()
	_, err := s.Lease(ctx, queue.LeaseOptions{})
	check(err)
	batches, total, err := s.InFlight(ctx, time.Now().Add(time.Minute), 10)
	check(err)
	fmt.Println(len(batches), total)
	// Output: 1 1
}

func ExampleShards_Annotation() {
	s, stop := shards(nil, "chair")
	defer stop()
	ctx := context.Background()
	batch, err := s.Lease(ctx, queue.LeaseOptions{})
	check(err)
	verdicts, err := s.Annotation(ctx, batch.ID, "dedup")
	fmt.Printf("%q %v\n", verdicts, err)
	// Output: "" <nil>
}

func ExampleShards_Scan() {
	s, stop := shards(nil, "chair", "table")
	defer stop()
	n := 0
	_, err := s.Scan(context.Background(), queue.ScanOptions{}, func(part []queue.ScannedRecord) error {
		n += len(part)
		return nil
	})
	fmt.Println(n, err)
	// Output: 2 <nil>
}

// deadShards is a queue of two shards with one dead letter.
func deadShards() (s *queue.Shards, stop func()) {
	s, stop = shards(nil, "chair")
	batch, err := s.Lease(context.Background(), queue.LeaseOptions{})
	check(err)
	check(s.Settle(context.Background(), batch, queue.Resolution{}))
	return s, stop
}

func ExampleShards_DeadLetters() {
	s, stop := deadShards()
	defer stop()
	letters, next, err := s.DeadLetters(context.Background(), "", 10)
	check(err)
	fmt.Printf("%d %s %q\n", len(letters), letters[0].Payload, next)
	// Output: 1 chair ""
}

func ExampleShards_DeadLetter() {
	s, stop := deadShards()
	defer stop()
	ctx := context.Background()
	letters, _, err := s.DeadLetters(ctx, "", 10)
	check(err)
	letter, err := s.DeadLetter(ctx, letters[0].ID)
	check(err)
	fmt.Println(letter.Reason)
	// Output: made void
}

func ExampleShards_Requeue() {
	s, stop := deadShards()
	defer stop()
	ctx := context.Background()
	letters, _, err := s.DeadLetters(ctx, "", 10)
	check(err)
	fmt.Println(s.Requeue(ctx, letters[0].ID))
	// Output: 1 <nil>
}

func ExampleShards_RequeueAll() {
	s, stop := deadShards()
	defer stop()
	fmt.Println(s.RequeueAll(context.Background()))
	// Output: 1 <nil>
}

func ExampleShards_Discard() {
	s, stop := deadShards()
	defer stop()
	ctx := context.Background()
	letters, _, err := s.DeadLetters(ctx, "", 10)
	check(err)
	fmt.Println(s.Discard(ctx, letters[0].ID))
	// Output: 1 <nil>
}

func ExampleShards_PushAt() {
	s, stop := shards(firstByte)
	defer stop()
	ctx := context.Background()
	check(s.PushAt(ctx, time.Now().Add(time.Hour), []byte("a1"), []byte("b1")))
	st, err := s.Stats(ctx)
	check(err)
	fmt.Println(st.Delayed)
	// Output: 2
}

func ExampleShards_Repair() {
	s, stop := shards(firstByte, "a1", "b1")
	defer stop()
	reports, err := s.Repair(context.Background(), nil)
	check(err)
	for i, r := range reports {
		fmt.Println(s.Queues()[i].Name(), r.After.Balanced())
	}
	// Output:
	// orders.0.1 <nil>
	// orders.1 <nil>
}
