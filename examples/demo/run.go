package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline"
)

// stuck is how long the demo waits without any progress before it gives up.
const stuck = 60 * time.Second

func run(ctx context.Context, p *program.Program, job orders.Job) error {
	gen, err := orders.NewGenerator(job.Orders)
	if err != nil {
		return err
	}
	s, err := openStores(ctx, p)
	if err != nil {
		return err
	}
	defer s.close()

	app, err := orders.OpenAs(ctx, s.redis, s.pg, s.name, orders.Options{ExpectedIDs: int64(job.Orders.Orders), Depth: job.Depth})
	if err != nil {
		return err
	}
	if err := app.Ensure(ctx); err != nil {
		return err
	}

	meter := newMeter(job.Orders.Orders)
	flow := app.Flow()
	job.Worker.Name, job.Worker.Observer = "demo", meter
	worker, err := pipeline.NewWorker(flow, job.Worker)
	if err != nil {
		return err
	}
	// The dashboards are roll-ups: each promotion brings them up to date, so nothing is refreshed.
	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{Observer: meter})
	if err != nil {
		return err
	}

	// Producer, worker and promoter run side by side, as three programs would.
	running, stop := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	for _, service := range []func(context.Context) error{app.RunLookups, worker.Run, promoter.Run} {
		wg.Go(func() {
			if err := service(running); err != nil && running.Err() == nil {
				stop(err)
			}
		})
	}
	wg.Go(func() {
		report := orders.Report(p.Say)
		report.Pushed, report.Full, report.Room = meter.pushed, nil, nil // the progress line shows them
		if _, err := app.PushAll(running, gen.All(), report); err != nil && running.Err() == nil {
			stop(err)
			return
		}
		meter.producerDone()
	})
	show := startProgress(p.Out, meter)
	err = settled(running, app, meter)
	show()
	if cause := context.Cause(running); cause != nil {
		err = cause
	}
	stop(nil)
	wg.Wait()
	if err != nil {
		return err
	}
	return report(ctx, p.Out, app, flow, meter, gen.Expected())
}

// settled returns when every order that was pushed has been acknowledged or buried.
func settled(ctx context.Context, app *orders.App, m *meter) error {
	moved, last := time.Now(), int64(-1)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.acked: // the promoter has acknowledged something
		case <-tick.C:
		}
		st, err := app.Queue.Stats(ctx)
		if err != nil {
			if time.Since(moved) > stuck {
				return fmt.Errorf("cannot read the queue's statistics for %v: %w", stuck, err)
			}
			continue
		}
		pushed, done := m.produced()
		if done && st.Acked+st.Dead >= pushed && st.Depth() == 0 { // a push that was repeated adds records
			m.end()
			return nil
		}
		if now := st.Acked + st.Dead + st.Taken + pushed; now != last {
			moved, last = time.Now(), now
		}
		if time.Since(moved) > stuck {
			return errors.Join(fmt.Errorf("no progress for %v: %d of %d orders are accounted for", stuck, st.Acked+st.Dead, pushed), m.lastError())
		}
	}
}
