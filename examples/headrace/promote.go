package main

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/pipeline"
)

// reconcileInterval is how often promote --empty reconciles while it waits.
const reconcileInterval = time.Second

// promote moves what is staged into the table, and brings the dashboards up to date with it. The
// views are left to the promoter, and to views refresh.
type promote struct {
	Empty bool `help:"Repeat until nothing is staged and nothing is in flight."`
	Once  bool `help:"One promotion (the default without --empty)."`
}

type promoted struct {
	Batches int     `json:"batches"`
	Records int     `json:"records"`
	Rows    int64   `json:"rows"`
	Seconds float64 `json:"seconds"`
}

// Run promotes.
func (v *promote) Run(ctx context.Context, s *session) error {
	app, err := s.app(ctx)
	if err != nil {
		return err
	}
	var done promoted
	promoter, err := pipeline.NewPromoter(app.Flow(), pipeline.PromoterConfig{
		Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
			if e.Op == pipeline.OpPromote && e.Err == nil {
				done.Records, done.Rows = done.Records+e.Records, done.Rows+e.Rows
			}
		}),
	})
	if err != nil {
		return err
	}
	start := time.Now()
	if err := promoter.Reconcile(ctx); err != nil { // what a crash has left
		return err
	}
	for reconciled := start; ; {
		n, err := promoter.Promote(ctx)
		if err != nil {
			return err
		}
		done.Batches += n
		if !v.Empty {
			break
		}
		if n > 0 {
			continue
		}
		q, err := app.Queue.Stats(ctx)
		if err != nil {
			return err
		}
		if q.Ready+q.Delayed+q.InFlight == 0 {
			break
		}
		if time.Since(reconciled) > reconcileInterval { // a batch may be void, set aside or emptied out of staging
			if err := promoter.Reconcile(ctx); err != nil {
				return err
			}
			reconciled = time.Now()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pollInterval):
		}
	}
	done.Seconds = time.Since(start).Seconds()
	return s.print(done, fmt.Sprintf("promoted %d records in %d batches, %d rows, in %.2f s\n", done.Records, done.Batches, done.Rows, done.Seconds))
}
