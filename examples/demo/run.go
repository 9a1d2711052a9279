package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline"
)

// stuck is how long nothing may move before the demo gives up.
const stuck = 60 * time.Second

// pushSize is how many orders the producer pushes at once.
const pushSize = 500

func run(ctx context.Context, out io.Writer, o options) error {
	gen, err := orders.NewGenerator(orders.Config{Seed: o.seed, Orders: o.orders, Duplicates: o.duplicates, Bad: o.bad, Burst: o.burst})
	if err != nil {
		return err
	}
	s, err := openStores(ctx, out)
	if err != nil {
		return err
	}
	defer s.close()

	app, err := orders.Open(ctx, s.redis, s.pg, s.name)
	if err != nil {
		return err
	}
	if err := app.Refresh(ctx); err != nil {
		return err
	}

	meter := newMeter(o.orders)
	flow := app.Flow()
	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{Name: "demo", Concurrency: o.workers, Records: o.batch, Observer: meter})
	if err != nil {
		return err
	}
	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{
		Refresh:  func(ctx context.Context) error { _, err := app.Views.Refresh(ctx); return err },
		Observer: meter,
	})
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
		if err := produce(running, app, gen, meter); err != nil && running.Err() == nil {
			stop(err)
		}
	})
	show := startProgress(out, meter)
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
	if _, err := app.Views.Refresh(ctx); err != nil {
		return err
	}
	return report(ctx, out, app, flow, meter, gen.Expected())
}

// produce pushes the generator's orders; the gate holds it back while too many wait.
func produce(ctx context.Context, app *orders.App, gen *orders.Generator, m *meter) error {
	batch := make([][]byte, 0, pushSize)
	push := func() error {
		start := time.Now()
		room, err := app.Gate.Acquire(ctx, len(batch))
		if err != nil {
			return err
		}
		waited := time.Since(start)
		start = time.Now()
		if err := app.Queue.Push(ctx, batch...); err != nil {
			return err
		}
		m.pushed(len(batch), time.Since(start), waited)
		batch = batch[:0]
		return room.Release(ctx)
	}
	for payload := range gen.All() {
		if batch = append(batch, payload); len(batch) == pushSize {
			if err := push(); err != nil {
				return err
			}
		}
	}
	if len(batch) > 0 {
		if err := push(); err != nil {
			return err
		}
	}
	m.producerDone()
	return nil
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
				return fmt.Errorf("the queue's books cannot be read for %v: %w", stuck, err)
			}
			continue
		}
		pushed, done := m.produced()
		if done && st.Acked+st.Dead >= pushed {
			m.end()
			return nil
		}
		if now := st.Acked + st.Dead + st.Taken + pushed; now != last {
			moved, last = time.Now(), now
		}
		if time.Since(moved) > stuck {
			return errors.Join(fmt.Errorf("nothing has moved for %v: %d of %d orders are accounted for", stuck, st.Acked+st.Dead, pushed), m.lastError())
		}
	}
}
