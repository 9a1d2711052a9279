package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/headrace/headrace/queue"
)

// A producer pushes, a worker leases, does its work and acknowledges.
func Example() {
	client, stop := throwaway()
	defer stop()
	ctx := context.Background()

	q, err := queue.New(ctx, client, "orders", queue.Config{})
	if err != nil {
		panic(err)
	}
	if err := q.Push(ctx, []byte("chair"), []byte("table"), []byte("lamp")); err != nil {
		panic(err)
	}

	batch, err := q.Lease(ctx, queue.LeaseOptions{Records: 2, Duration: time.Minute})
	if err != nil {
		panic(err)
	}
	for i, p := range batch.Payloads {
		fmt.Printf("place %d: %s\n", batch.Offset+i, p)
	}
	if _, err := q.Ack(ctx, batch.ID); err != nil {
		panic(err)
	}
	s, err := q.Stats(ctx)
	if err != nil {
		panic(err)
	}
	fmt.Printf("ready %d, taken %d = acked %d + in flight %d + dead %d\n", s.Ready, s.Taken, s.Acked, s.InFlight, s.Dead)
	// Output:
	// place 0: chair
	// place 1: table
	// ready 1, taken 2 = acked 2 + in flight 0 + dead 0
}

func ExampleNew() {
	client, stop := throwaway()
	defer stop()
	q, err := queue.New(context.Background(), client, "orders", queue.Config{
		Push:  queue.PushConfig{MaxDepth: 1_000_000},
		Lease: queue.LeaseConfig{Records: 500, Duration: time.Minute},
	})
	check(err)
	fmt.Println(q.Name())

	_, err = queue.New(context.Background(), client, "orders", queue.Config{Lease: queue.LeaseConfig{Records: -1}})
	fmt.Println(err)
	// Output:
	// orders
	// queue: invalid configuration: Config.Lease.Records is -1, must be 1 to 100000
}

func ExampleQueue_Name() {
	q, stop := orders(queue.Config{})
	defer stop()
	fmt.Println(q.Name())
	// Output: orders
}

// With a bound, a push is accepted or refused as a whole.
func ExampleQueue_Push() {
	q, stop := orders(queue.Config{Push: queue.PushConfig{MaxDepth: 3}})
	defer stop()
	ctx := context.Background()
	fmt.Println(q.Push(ctx, []byte("chair"), []byte("table")))
	err := q.Push(ctx, []byte("lamp"), []byte("shelf"))
	fmt.Println(errors.Is(err, queue.ErrFull), err)
	// Output:
	// <nil>
	// true queue: full: depth 2, cannot add 2: at most 3
}

func ExampleQueue_PushAt() {
	q, stop := orders(queue.Config{})
	defer stop()
	ctx := context.Background()
	check(q.PushAt(ctx, time.Now().Add(time.Hour), []byte("reminder")))
	_, err := q.TryLease(ctx, queue.LeaseOptions{})
	s, _ := q.Stats(ctx)
	fmt.Println(err, s.Delayed)
	// Output: queue: nothing to lease 1
}

// A consumer that must not wait.
func ExampleQueue_TryLease() {
	q, stop := orders(queue.Config{}, "chair")
	defer stop()
	ctx := context.Background()
	for {
		batch, err := q.TryLease(ctx, queue.LeaseOptions{})
		if errors.Is(err, queue.ErrEmpty) {
			fmt.Println("empty")
			return
		}
		check(err)
		printPayloads(batch)
		_, err = q.Ack(ctx, batch.ID)
		check(err)
	}
	// Output:
	// chair
	// empty
}

// A consumer waits until there is a batch or its context is done.
func ExampleQueue_Lease() {
	q, stop := orders(queue.Config{}, "chair", "table", "lamp")
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	batch, err := q.Lease(ctx, queue.LeaseOptions{Records: 100, Bytes: 10})
	check(err)
	printPayloads(batch)
	// Output: chair, table
}

// A worker that needs longer than its lease extends it, usually from a separate goroutine.
func ExampleQueue_Extend() {
	q, stop := orders(queue.Config{}, "chair")
	defer stop()
	ctx := context.Background()
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	fmt.Println(q.Extend(ctx, batch, 5*time.Minute))
	_, err = q.Ack(ctx, batch.ID)
	check(err)
	fmt.Println(errors.Is(q.Extend(ctx, batch, 5*time.Minute), queue.ErrLeaseLost))
	// Output:
	// <nil>
	// true
}

// The worker's own code is done, and the batch waits for a database that is away. If the worker
// dies now, the batch is delivered again, and no crash is counted.
func ExampleQueue_ExtendWaiting() {
	q, stop := orders(queue.Config{}, "chair")
	defer stop()
	ctx := context.Background()
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	check(q.ExtendWaiting(ctx, batch, time.Millisecond))
	again, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	fmt.Println("same batch:", again.ID == batch.ID, "attempt:", again.Attempt, "crashes:", again.Crashes)
	// Output: same batch: true attempt: 2 crashes: 0
}

// A batch that fails goes back, with the reason.
func ExampleQueue_Release() {
	q, stop := orders(queue.Config{Lease: queue.LeaseConfig{Backoff: time.Millisecond, MaxBackoff: time.Millisecond}}, "chair")
	defer stop()
	ctx := context.Background()
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	check(q.Release(ctx, batch, queue.ReleaseOptions{Failure: "no such product"}))
	batch, err = q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	fmt.Println(batch.Attempt, batch.Failures, batch.Reason)
	// Output: 2 1 no such product
}

// The worker has staged the batch; from now on it waits for the promoter.
func ExampleQueue_Handoff() {
	q, stop := orders(queue.Config{}, "chair")
	defer stop()
	ctx := context.Background()
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	check(q.Handoff(ctx, batch))
	s, err := q.Stats(ctx)
	check(err)
	fmt.Println(s.HandedOff, s.LeasedBatches)
	// Output: 1 0
}

func ExampleQueue_HandedOff() {
	q, stop := orders(queue.Config{}, "chair", "table")
	defer stop()
	ctx := context.Background()
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	check(q.Handoff(ctx, batch))
	handed, err := q.HandedOff(ctx)
	check(err)
	for _, h := range handed {
		fmt.Println(h.ID == batch.ID, h.Records, h.Attempt)
	}
	// Output: true 2 1
}

// An acknowledgement that comes twice is harmless.
func ExampleQueue_Ack() {
	q, stop := orders(queue.Config{}, "chair")
	defer stop()
	ctx := context.Background()
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	fmt.Println(q.Ack(ctx, batch.ID))
	fmt.Println(q.Ack(ctx, batch.ID))
	// Output:
	// 1 <nil>
	// 0 <nil>
}

// Something in Redis is undone in the same step as the acknowledgement.
func ExampleQueue_AckWith() {
	client, stop := throwaway()
	defer stop()
	ctx := context.Background()
	q, err := queue.New(ctx, client, "orders", queue.Config{})
	check(err)
	check(q.Push(ctx, []byte("chair")))
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	check(client.Do(ctx, client.B().Set().Key("{orders}:mine").Value("claimed").Build()).Error())

	undo := queue.Undo{Key: "{orders}:mine", Offset: 0, Old: "claimed", New: "free   "}
	n, err := q.AckWith(ctx, queue.Ack{ID: batch.ID, Undo: []queue.Undo{undo}})
	check(err)
	text, err := client.Do(ctx, client.B().Get().Key("{orders}:mine").Build()).ToString()
	check(err)
	fmt.Printf("%d %q\n", n, text)
	// Output: 1 "free   "
}

func ExampleQueue_Get() {
	q, stop := orders(queue.Config{}, "chair", "table")
	defer stop()
	ctx := context.Background()
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	same, err := q.Get(ctx, batch.ID)
	check(err)
	printPayloads(same)
	_, err = q.Get(ctx, "none")
	fmt.Println(errors.Is(err, queue.ErrGone))
	// Output:
	// chair, table
	// true
}

// A worker finds its batch in the ledger: it was promoted by an earlier attempt.
func ExampleQueue_Settle() {
	q, stop := orders(queue.Config{}, "chair")
	defer stop()
	ctx := context.Background()
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	check(q.Settle(ctx, batch, queue.Resolution{Promoted: true}))
	s, err := q.Stats(ctx)
	check(err)
	fmt.Println(s.Acked)
	// Output: 1
}

// A record that no worker can process ends in the dead-letter list, alone and with the reason, and
// its neighbours go through.
func ExampleQueue_DeadLetters() {
	q, stop := orders(queue.Config{Lease: queue.LeaseConfig{MaxFailures: 1, Backoff: time.Millisecond}},
		"chair", "poison", "lamp", "table")
	defer stop()
	ctx := context.Background()

	// A real one writes the void to the ledger first; see package staging.
	settle := func(context.Context, *queue.Batch) (queue.Resolution, error) { return queue.Resolution{}, nil }
	for {
		s, err := q.Stats(ctx)
		check(err)
		if s.Ready+s.InFlight == 0 {
			break
		}
		wait, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		batch, err := q.Lease(wait, queue.LeaseOptions{Settle: settle})
		cancel()
		if err != nil {
			continue
		}
		if holds(batch, "poison") {
			check(q.Release(ctx, batch, queue.ReleaseOptions{Failure: "cannot be decoded"}))
			continue
		}
		_, err = q.Ack(ctx, batch.ID)
		check(err)
	}

	dead, _, err := q.DeadLetters(ctx, "", 10)
	check(err)
	for _, d := range dead {
		fmt.Printf("%s at place %d: %s\n", d.Payload, d.Offset, d.Reason)
	}
	s, err := q.Stats(ctx)
	check(err)
	fmt.Printf("acked %d, dead %d\n", s.Acked, s.Dead)
	// Output:
	// poison at place 1: cannot be decoded
	// acked 3, dead 1
}

func holds(b *queue.Batch, s string) bool {
	for _, p := range b.Payloads {
		if string(p) == s {
			return true
		}
	}
	return false
}

// buried is a queue with one dead letter.
func buried() (q *queue.Queue, id string, stop func()) {
	q, stop = orders(queue.Config{}, "poison")
	batch, err := q.Lease(context.Background(), queue.LeaseOptions{})
	check(err)
	check(q.Settle(context.Background(), batch, queue.Resolution{}))
	return q, batch.ID, stop
}

func ExampleQueue_Requeue() {
	q, id, stop := buried()
	defer stop()
	ctx := context.Background()
	fmt.Println(q.Requeue(ctx, id))
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	printPayloads(batch)
	// Output:
	// 1 <nil>
	// poison
}

func ExampleQueue_RequeueAll() {
	q, _, stop := buried()
	defer stop()
	fmt.Println(q.RequeueAll(context.Background()))
	// Output: 1 <nil>
}

func ExampleQueue_Discard() {
	q, id, stop := buried()
	defer stop()
	ctx := context.Background()
	fmt.Println(q.Discard(ctx, id))
	s, err := q.Stats(ctx)
	check(err)
	fmt.Println(s.Dead, s.Discarded, s.Balanced())
	// Output:
	// 1 <nil>
	// 0 1 <nil>
}

// At start, and after Postgres was away: what is promoted is acknowledged, what is unknown is
// delivered again.
func ExampleQueue_Reconcile() {
	q, stop := orders(queue.Config{}, "chair", "table")
	defer stop()
	ctx := context.Background()
	for range 2 {
		b, err := q.Lease(ctx, queue.LeaseOptions{Records: 1})
		check(err)
		check(q.Handoff(ctx, b))
	}
	handed, err := q.HandedOff(ctx)
	check(err)
	promoted := handed[0].ID // as the ledger has it

	r, err := q.Reconcile(ctx, func(_ context.Context, ids []string) ([]queue.BatchFate, error) {
		out := make([]queue.BatchFate, len(ids))
		for i, id := range ids {
			if id == promoted {
				out[i].Fate = queue.FatePromoted
			}
		}
		return out, nil
	}, nil)
	fmt.Printf("acked %d, redelivered %d %v\n", r.Acked, r.Redelivered, err)
	// Output:
	// acked 1, redelivered 1 <nil>
}

func ExampleQueue_Pause() {
	q, stop := orders(queue.Config{}, "chair")
	defer stop()
	ctx := context.Background()
	check(q.Pause(ctx))
	_, err := q.TryLease(ctx, queue.LeaseOptions{})
	fmt.Println(err)
	// Output: queue: paused
}

func ExampleQueue_Resume() {
	q, stop := orders(queue.Config{}, "chair")
	defer stop()
	ctx := context.Background()
	check(q.Pause(ctx))
	check(q.Resume(ctx))
	batch, err := q.TryLease(ctx, queue.LeaseOptions{})
	check(err)
	printPayloads(batch)
	// Output: chair
}

func ExampleQueue_Stats() {
	q, stop := orders(queue.Config{}, "chair", "table", "lamp")
	defer stop()
	ctx := context.Background()
	_, err := q.Lease(ctx, queue.LeaseOptions{Records: 2})
	check(err)
	s, err := q.Stats(ctx)
	check(err)
	fmt.Println(s.Ready, s.InFlight, s.Depth(), s.Balanced())
	// Output: 1 2 3 <nil>
}

func ExampleStats_Balanced() {
	s := queue.Stats{Taken: 10, Acked: 6, InFlight: 3}
	err := s.Balanced() // it names the line, and by how much it is off
	fmt.Println(errors.Is(err, queue.ErrImbalance), strings.HasSuffix(err.Error(), "is off by 1"))
	// Output: true true
}

func ExampleStats_Imbalance() {
	fmt.Println(queue.Stats{Taken: 10, Acked: 6, InFlight: 3}.Imbalance())
	// Output: 1
}

func ExampleStats_Depth() {
	fmt.Println(queue.Stats{Ready: 10, Delayed: 1, InFlight: 3}.Depth())
	// Output: 14
}

func ExampleQueue_Audit() {
	q, stop := orders(queue.Config{}, "chair", "table")
	defer stop()
	ctx := context.Background()
	_, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	a, err := q.Audit(ctx)
	check(err)
	fmt.Println(a.Batches, a.Records, a.Balanced())
	// Output: 1 2 <nil>
}

func ExampleAuditReport_Balanced() {
	a := queue.AuditReport{Differences: []string{"dead letter 7: its hash is gone"}}
	err := a.Balanced() // it names the first difference
	fmt.Println(errors.Is(err, queue.ErrImbalance), strings.HasSuffix(err.Error(), a.Differences[0]))
	// Output: true true
}

// An operator has deleted a key.
func ExampleQueue_Repair() {
	client, stop := throwaway()
	defer stop()
	ctx := context.Background()
	q, err := queue.New(ctx, client, "orders", queue.Config{})
	check(err)
	check(q.Push(ctx, []byte("chair"), []byte("table")))
	batch, err := q.Lease(ctx, queue.LeaseOptions{})
	check(err)
	check(client.Do(ctx, client.B().Del().Key("{orders}:queue:b:"+batch.ID).Build()).Error())

	a, err := q.Audit(ctx)
	check(err)
	fmt.Println(a.Balanced() != nil)
	r, err := q.Repair(ctx, nil)
	check(err)
	fmt.Println(r.Lost, r.After.Balanced())
	// Output:
	// true
	// 2 <nil>
}

// A gate of package backpressure takes the depth of a queue from these keys.
func ExampleQueue_DepthKeys() {
	q, stop := orders(queue.Config{})
	defer stop()
	fmt.Println(q.DepthKeys())
	// Output: [{orders}:ready] {orders}:queue:stat [inflight delayed] []
}

func ExampleQueue_LagKey() {
	q, stop := orders(queue.Config{})
	defer stop()
	fmt.Println(q.LagKey())
	// Output: {orders}:queue:open
}
