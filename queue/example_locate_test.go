package queue_test

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/queue"
)

// Where two batches are, and who has them.
func ExampleQueue_Batches() {
	q, stop := orders(queue.Config{}, "chair", "table")
	defer stop()
	ctx := context.Background()
	first, err := q.Lease(ctx, queue.LeaseOptions{Records: 1, Worker: "worker-3"})
	check(err)
	second, err := q.Lease(ctx, queue.LeaseOptions{Records: 1, Worker: "worker-4"})
	check(err)
	check(q.Handoff(ctx, second))
	batches, err := q.Batches(ctx, first.ID, second.ID)
	check(err)
	for _, b := range batches {
		fmt.Println(b.State, "by", b.Worker, "attempt", b.Attempt, "records", b.Records, b.Holds(b.ID, 0))
	}
	// Output:
	// leased by worker-3 attempt 1 records 1 true
	// handed off by worker-4 attempt 1 records 1 true
}

func ExampleQueue_InFlight() {
	q, stop := orders(queue.Config{}, "chair", "table")
	defer stop()
	ctx := context.Background()
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	batches, total, err := q.InFlight(ctx, time.Now().Add(time.Minute), 10)
	check(err)
	fmt.Println(len(batches), total, batches[0].ID == batch.ID)
	// Output: 1 1 true
}

// A record has no index by its content: Scan looks through the oldest ones.
func ExampleQueue_Scan() {
	q, stop := orders(queue.Config{}, "chair", "table", "lamp")
	defer stop()
	ctx := context.Background()
	counts, err := q.Scan(ctx, queue.ScanOptions{Records: 2}, func(part []queue.ScannedRecord) error {
		for _, r := range part {
			fmt.Printf("%v at %d: %s\n", r.Place, r.Position, r.Payload)
		}
		return nil
	})
	check(err)
	for _, c := range counts {
		if !c.Complete() {
			fmt.Printf("%v: %d of %d\n", c.Place, c.Scanned, c.Total)
		}
	}
	// Output:
	// ready at 0: chair
	// ready at 1: table
	// ready: 2 of 3
}

// What package dedup keeps with a batch.
func ExampleQueue_Annotation() {
	client, stop := throwaway()
	defer stop()
	ctx := context.Background()
	q, err := queue.New(ctx, client, "orders", queue.Config{})
	check(err)
	check(q.Push(ctx, []byte("chair"), []byte("chair")))
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	check(client.Do(ctx, client.B().Hset().Key(batch.Guard).FieldValue().FieldValue("r:dedup", "fd").Build()).Error())
	fmt.Println(q.Annotation(ctx, batch.ID, "dedup"))
	// Output: fd <nil>
}

func ExampleQueue_DeadLetter() {
	q, stop := orders(queue.Config{}, "chair")
	defer stop()
	ctx := context.Background()
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	check(q.Settle(ctx, batch, queue.Resolution{}))
	letter, err := q.DeadLetter(ctx, batch.ID)
	check(err)
	fmt.Printf("%s: %s\n", letter.Payload, letter.Reason)
	// Output: chair: made void
}
