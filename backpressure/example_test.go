package backpressure_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// A producer of batches before a list that may hold ten records. The consumer takes them away and says so.
func Example() {
	ctx := context.Background()
	client, stop := servertest.ExampleRedis()
	defer stop()

	const list = "{parcels}:ready"
	gate, err := backpressure.New(client, "parcels", backpressure.Config{
		Records: []backpressure.Source{{List: list}},
		High:    10, Low: 4,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	produce := func(r *backpressure.Reservation) {
		for i := range r.Records {
			client.Do(ctx, client.B().Lpush().Key(list).Element(fmt.Sprint("parcel ", i)).Build())
		}
		if err := r.Release(ctx); err != nil {
			fmt.Println(err)
		}
	}

	for range 2 { // 5 records each: full
		r, err := gate.Acquire(ctx, 5)
		if err != nil {
			fmt.Println(err)
			return
		}
		produce(r)
	}
	_, err = gate.TryAcquire(ctx, 5)
	fmt.Println(errors.Is(err, backpressure.ErrFull), err)

	consumed := make(chan bool)
	go func() {
		defer close(consumed)
		client.Do(ctx, client.B().Rpop().Key(list).Count(6).Build())
		if err := gate.Notify(ctx); err != nil {
			fmt.Println(err)
		}
	}()
	r, err := gate.Acquire(ctx, 5)
	if err != nil {
		fmt.Println(err)
		return
	}
	produce(r)
	<-consumed
	state, err := gate.Stats(ctx)
	fmt.Println(state.Records, "records", err)
	// Output:
	// true backpressure: gate is closed: parcels: 10 records and 0 reserved, 5 more asked for: it closes at 10 and opens at 4
	// 9 records <nil>
}
