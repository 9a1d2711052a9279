package queue_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/headrace/headrace/queue"
)

// A program that copies lines of a file into a queue goes on where it stopped. A repeated call
// doubles nothing.
func ExampleQueue_PushFrom() {
	q, stop := orders(queue.Config{})
	defer stop()
	ctx := context.Background()
	for range 2 {
		check(q.PushFrom(ctx, "orders.csv", "", "line 2", []byte("chair"), []byte("table")))
	}
	s, err := q.Stats(ctx)
	check(err)
	fmt.Println(s.Ready)
	err = q.PushFrom(ctx, "orders.csv", "line 1", "line 3", []byte("lamp"))
	fmt.Println(errors.Is(err, queue.ErrPosition), err)
	// Output:
	// 2
	// true queue: the source "orders.csv" is at position "line 2", and not at "line 1"
}

func ExampleQueue_Position() {
	q, stop := orders(queue.Config{})
	defer stop()
	ctx := context.Background()
	check(q.PushFrom(ctx, "orders.csv", "", "line 2", []byte("chair"), []byte("table")))
	fmt.Println(q.Position(ctx, "orders.csv"))
	// Output: line 2 <nil>
}
