package queue_test

import (
	"context"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/queue"
)

// throwaway is a Redis inside this program; a service gives New the client that it has.
func throwaway() (rueidis.Client, func()) {
	s, err := miniredis.Run()
	if err != nil {
		panic(err)
	}
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Addr()}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		panic(err)
	}
	return c, func() { c.Close(); s.Close() }
}

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
	s, _ := q.Stats(ctx)
	fmt.Printf("ready %d, taken %d = acked %d + in flight %d + dead %d\n", s.Ready, s.Taken, s.Acked, s.InFlight, s.Dead)
	// Output:
	// place 0: chair
	// place 1: table
	// ready 1, taken 2 = acked 2 + in flight 0 + dead 0
}

// A record that no worker can stand ends alone in the dead list, with the reason, and its
// neighbours go through.
func ExampleQueue_DeadLetters() {
	client, stop := throwaway()
	defer stop()
	ctx := context.Background()
	q, err := queue.New(ctx, client, "orders", queue.Config{Lease: queue.LeaseConfig{MaxFailures: 1, Backoff: time.Millisecond}})
	if err != nil {
		panic(err)
	}
	_ = q.Push(ctx, []byte("chair"), []byte("poison"), []byte("lamp"), []byte("table"))

	// A real one writes the void to the ledger first; see package staging.
	settle := func(context.Context, *queue.Batch) (queue.Resolution, error) { return queue.Resolution{}, nil }
	for {
		s, _ := q.Stats(ctx)
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
			_ = q.Release(ctx, batch, queue.ReleaseOptions{Failure: "not to be processed"})
			continue
		}
		_, _ = q.Ack(ctx, batch.ID)
	}

	dead, _, err := q.DeadLetters(ctx, "", 10)
	if err != nil {
		panic(err)
	}
	for _, d := range dead {
		fmt.Printf("%s at place %d: %s\n", d.Payload, d.Offset, d.Reason)
	}
	s, _ := q.Stats(ctx)
	fmt.Printf("acked %d, dead %d\n", s.Acked, s.Dead)
	// Output:
	// poison at place 1: not to be processed
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

// At start, and after Postgres was away: what is promoted is acknowledged, what is unknown is
// redelivered.
func ExampleQueue_Reconcile() {
	client, stop := throwaway()
	defer stop()
	ctx := context.Background()
	q, err := queue.New(ctx, client, "orders", queue.Config{})
	if err != nil {
		panic(err)
	}
	_ = q.Push(ctx, []byte("chair"), []byte("table"))
	for range 2 {
		b, _ := q.Lease(ctx, queue.LeaseOptions{Records: 1})
		_ = q.Handoff(ctx, b)
	}
	handed, _ := q.HandedOff(ctx)
	promoted := handed[0].ID // as the ledger says

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
