package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/headrace/headrace/pipeline"
)

// process runs a worker until it is told to stop, or until a number of batches, or until the queue
// is empty.
type process struct {
	Workers    int           `default:"2" env:"HEADRACE_WORKERS" help:"Batches processed at once, 1 to 64."`
	Batch      int           `default:"2000" env:"HEADRACE_BATCH" help:"Records of a batch, 1 to 100000."`
	Lease      time.Duration `default:"30s" env:"HEADRACE_LEASE" help:"A silent worker loses its batches after this time."`
	Iterations int           `help:"Stop after this many batches (default: never)."`
	Empty      bool          `help:"Stop when the queue has no record left to process."`
}

type processed struct {
	Batches int     `json:"batches"`
	Records int     `json:"records"`
	Seconds float64 `json:"seconds"`
}

// Validate is called by kong after parsing.
func (v *process) Validate() error {
	switch {
	case v.Workers < 1 || v.Workers > 64:
		return fmt.Errorf("--workers is %d, must be from 1 to 64", v.Workers)
	case v.Batch < 1 || v.Batch > 100_000:
		return fmt.Errorf("--batch is %d, must be from 1 to 100000", v.Batch)
	case v.Lease < time.Second:
		return fmt.Errorf("--lease is %v, must be at least 1s", v.Lease)
	case v.Iterations < 0:
		return fmt.Errorf("--iterations is %d, must not be negative", v.Iterations)
	}
	return nil
}

// Run runs the worker.
func (v *process) Run(ctx context.Context, s *session) error {
	app, err := s.app(ctx)
	if err != nil {
		return err
	}
	if err := app.Ensure(ctx); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex
	var done processed
	worker, err := pipeline.NewWorker(app.Flow(), pipeline.WorkerConfig{
		Concurrency: v.Workers, Records: v.Batch, LeaseDuration: v.Lease,
		Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
			if e.Op != pipeline.OpHandoff || e.Err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			done.Batches, done.Records = done.Batches+1, done.Records+e.Records
			if v.Iterations > 0 && done.Batches >= v.Iterations {
				stop() // the leased batches are finished
			}
		}),
	})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		if err := app.RunLookups(running); err != nil && running.Err() == nil {
			s.Say("lookups: %v", err)
		}
	})
	if v.Empty {
		wg.Go(func() {
			until(running, func() bool {
				q, err := app.Queue.Stats(running)
				return err == nil && q.Ready+q.Delayed+q.InFlight-q.HandedOff == 0
			})
			stop()
		})
	}
	start := time.Now()
	if err := worker.Run(running); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	done.Seconds = time.Since(start).Seconds()
	err = s.print(done, fmt.Sprintf("processed %d records in %d batches in %.2f s\n", done.Records, done.Batches, done.Seconds))
	if err == nil && ctx.Err() != nil && (v.Empty || v.Iterations > 0) {
		return context.Cause(ctx) // it was stopped before its end
	}
	return err
}

// pollInterval is the pause between two looks at the queue.
const pollInterval = 200 * time.Millisecond

// until returns when ok is true or ctx is done.
func until(ctx context.Context, ok func() bool) {
	for !ok() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pollInterval):
		}
	}
}
