package backpressure_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
)

// parcels opens a gate before the list {parcels}:ready, which may hold ten records.
func parcels(ctx context.Context, client rueidis.Client) *backpressure.Gate {
	gate, err := backpressure.New(ctx, client, "parcels", backpressure.Config{
		Records: []backpressure.Source{{List: "{parcels}:ready"}},
		High:    10, Low: 4,
	})
	check(err)
	return gate
}

func push(ctx context.Context, client rueidis.Client, n int) {
	for i := range n {
		check(client.Do(ctx, client.B().Lpush().Key("{parcels}:ready").Element(fmt.Sprint("parcel ", i)).Build()).Error())
	}
}

// A producer of batches before a list that may hold ten records. The consumer takes them away and
// notifies the gate.
func Example() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	gate := parcels(ctx, client)

	for range 2 { // 5 records each: full
		r, err := gate.Acquire(ctx, 5)
		check(err)
		push(ctx, client, r.Records)
		check(r.Release(ctx))
	}
	_, err := gate.TryAcquire(ctx, 5)
	fmt.Println(err)

	consumed := make(chan error)
	go func() {
		client.Do(ctx, client.B().Rpop().Key("{parcels}:ready").Count(6).Build())
		consumed <- gate.Notify(ctx)
	}()
	r, err := gate.Acquire(ctx, 5)
	check(err)
	push(ctx, client, r.Records)
	check(r.Release(ctx))
	check(<-consumed)
	stats, err := gate.Stats(ctx)
	fmt.Println(stats.Records, "records", err)
	// Output:
	// backpressure: gate is closed: parcels: 10 records and 0 reserved, 5 more asked for: it closes at 10 and opens at 4
	// 9 records <nil>
}

// Acquire gives up with its context, and the error has what it waited for.
func ExampleGate_Acquire() {
	client, stop := throwaway()
	defer stop()
	gate := parcels(context.Background(), client)
	push(context.Background(), client, 10)
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_, err := gate.Acquire(ctx, 1)
	var full *backpressure.FullError
	fmt.Println(errors.Is(err, context.DeadlineExceeded), errors.As(err, &full))
	// Output:
	// true true
}

// TryAcquire returns at once, so that a server can tell its own callers to come back later.
func ExampleGate_TryAcquire() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	gate := parcels(ctx, client)
	push(ctx, client, 10)
	_, err := gate.TryAcquire(ctx, 1)
	fmt.Println(errors.Is(err, backpressure.ErrFull))
	// Output:
	// true
}

// A gate over bytes. What is in flight counts too: bytes taken minus bytes done.
func ExampleGate_AcquireBytes() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	gate, err := backpressure.New(ctx, client, "films", backpressure.Config{
		Bytes:     []backpressure.Source{{Hash: "{films}:sum", Field: "taken"}, {Hash: "{films}:sum", Field: "done", Minus: true}},
		HighBytes: 1 << 30,
	})
	check(err)
	r, err := gate.AcquireBytes(ctx, 1, 300<<20)
	check(err)
	defer r.Release(ctx) //nolint:errcheck // the example ends here
	_, err = gate.TryAcquireBytes(ctx, 1, 500<<20)
	check(err)
	_, err = gate.TryAcquireBytes(ctx, 1, 500<<20)
	fmt.Println(err)
	// Output:
	// backpressure: gate is closed: films: 0 bytes and 838860800 reserved, 524288000 more asked for: it closes at 1073741824 and opens at 536870912
}

// orders takes the place of a queue that reports where its depth is.
type orders struct{}

func (orders) DepthKeys() (lists []string, hash string, plus, minus []string) {
	return []string{"{orders}:ready"}, "{orders}:sum", []string{"taken"}, []string{"acked"}
}

// The keys of a gate before a queue.
func ExampleGate_SourceKeys() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	gate, err := backpressure.New(ctx, client, "orders", backpressure.Config{Records: backpressure.SourcesOf(orders{})})
	fmt.Println(gate.SourceKeys(), err)
	// Output:
	// [{orders}:ready {orders}:sum] <nil>
}

// A queue reports its own depth, so that its callers need not know its keys.
func ExampleSourcesOf() {
	for _, s := range backpressure.SourcesOf(orders{}) {
		fmt.Println(s.List, s.Hash, s.Field, s.Minus)
	}
	// Output:
	// {orders}:ready   false
	//  {orders}:sum taken false
	//  {orders}:sum acked true
}

// A consumer calls Notify after it has taken something away.
func ExampleGate_Notify() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	gate := parcels(ctx, client)
	push(ctx, client, 10)
	_, err := gate.TryAcquire(ctx, 1)
	fmt.Println(err != nil)
	check(client.Do(ctx, client.B().Rpop().Key("{parcels}:ready").Count(6).Build()).Error())
	check(gate.Notify(ctx))
	stats, err := gate.Stats(ctx)
	fmt.Println("closed:", stats.Closed, err)
	// Output:
	// true
	// closed: false <nil>
}

// Release after the deadline reports that the room was given away.
func ExampleReservation_Release() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	gate := parcels(ctx, client)
	r, err := gate.Acquire(ctx, 5)
	check(err)
	push(ctx, client, r.Records)
	fmt.Println(r.Release(ctx), r.Release(ctx)) // twice is harmless
	// Output:
	// <nil> <nil>
}

// Stats are what an operator wants to see.
func ExampleGate_Stats() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	gate := parcels(ctx, client)
	push(ctx, client, 3)
	_, err := gate.Acquire(ctx, 2)
	check(err)
	s, err := gate.Stats(ctx)
	check(err)
	fmt.Println("depth", s.Records, "reserved", s.ReservedRecords, "by", s.Producers, "waiting", s.Waiting, "closed", s.Closed)
	// Output:
	// depth 3 reserved 2 by 1 waiting 0 closed false
}

// Someone deleted a reservation by hand. Audit finds it, and Repair sets the sum right.
func ExampleGate_Repair() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	gate := parcels(ctx, client)
	for range 2 {
		_, err := gate.Acquire(ctx, 2)
		check(err)
	}
	check(client.Do(ctx, client.B().Zpopmin().Key("{parcels}:gate:held").Build()).Error())
	found, err := gate.Audit(ctx)
	check(err)
	fmt.Println(found.Differences[0])
	_, err = gate.Repair(ctx)
	check(err)
	found, err = gate.Audit(ctx)
	fmt.Println(found.Balanced(), err)
	// Output:
	// the reservations have 2 records, but their sum is kept as 4: off by 2
	// <nil> <nil>
}

// A program in any language can wait for the ids of the producers that the gate lets through.
func ExampleGate_Channel() {
	ctx := context.Background()
	client, stop := throwaway()
	defer stop()
	fmt.Println("SUBSCRIBE", parcels(ctx, client).Channel())
	// Output: SUBSCRIBE {parcels}:gate:granted
}
