// Command promoter moves staged orders into the durable table, acknowledges their batches after the commit, and refreshes the views. One is
// enough; several take turns. Look at how it reports: the books, each time something was promoted.
//
//	REDIS_URL=redis://localhost:6379 DATABASE_URL=postgres://localhost/shop go run ./examples/promoter
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "promoter:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	redis, pg, closeBoth, err := orders.Connect(ctx)
	if err != nil {
		return err
	}
	defer closeBoth()
	app, err := orders.Open(ctx, redis, pg, orders.Name)
	if err != nil {
		return err
	}
	promoter, err := pipeline.NewPromoter(app.Flow(), pipeline.PromoterConfig{
		Refresh: func(ctx context.Context) error { _, err := app.Views.Refresh(ctx); return err },
		Observer: pipeline.ObserverFunc(func(e pipeline.Event) {
			if e.Op == pipeline.OpPromote && e.Err == nil {
				fmt.Printf("promoted %d records, %d rows, in %v\n", e.Records, e.Rows, e.Duration.Round(time.Millisecond))
			}
		}),
	})
	if err != nil {
		return err
	}
	fmt.Println("promoting; Ctrl-C finishes the promotion in hand")
	if err := promoter.Run(ctx); err != nil {
		return err
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	books, err := app.Flow().Books(last, time.Time{})
	if err != nil {
		return err
	}
	for _, l := range books.Lines() {
		fmt.Println(l.Name+":", l.Sum)
	}
	return books.Balanced()
}
