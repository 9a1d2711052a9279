package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Worker leases batches, runs them through a chain, stages what remains in Postgres and hands the batches off to the
// promoter. Any number of workers, in any number of processes, may work on one queue. A Worker is safe for concurrent use, but Run may be
// under way only once.
type Worker[T any] struct {
	flow   Flow[T]
	cfg    WorkerConfig
	settle queue.SettleFunc
	run    sync.Mutex
}

// NewWorker makes a worker for a flow.
func NewWorker[T any](flow Flow[T], cfg WorkerConfig) (*Worker[T], error) {
	if err := flow.check(); err != nil {
		return nil, err
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Worker[T]{flow: flow, cfg: cfg, settle: flow.settler(cfg.Name, cfg.Logger)}, nil
}

// Run works until ctx is done, then stops leasing, finishes the batches in hand, and returns nil. What is not finished within Grace is
// given back to the queue. A function in the chain that neither ends nor looks at its context is left behind 5 s later, with an error. While Redis or Postgres is away it waits
// and tries again; an absent Postgres is never counted against a batch, an outage of Redis that outlasts a lease counts as a crash. A second Run at the
// same time is an error.
func (w *Worker[T]) Run(ctx context.Context) error {
	if !w.run.TryLock() {
		return errors.New("pipeline: Worker.Run: already running")
	}
	defer w.run.Unlock()

	// What is in hand outlives ctx by Grace.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		t := time.NewTimer(w.cfg.ShutdownTimeout)
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-work.Done():
		}
	})
	defer stop()

	var wg sync.WaitGroup
	for range w.cfg.Concurrency {
		wg.Go(func() { w.loop(ctx, work) })
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-work.Done():
	}
	// Time is up; what looks at its context ends now. A function that does not cannot be stopped.
	t := time.NewTimer(stopWait)
	defer t.Stop()
	select {
	case <-ended:
		return nil
	case <-t.C:
		return errors.New("pipeline: Worker.Run: a function in the chain does not return though its context has ended; its batch comes again after the lease")
	}
}

// stopWait is how long Run waits, after Grace, for functions that may not look at their context.
const stopWait = 5 * time.Second

// loop holds one batch at a time. While Postgres is away it holds on to the batch that it could not stage, and so leases no other.
func (w *Worker[T]) loop(ctx, work context.Context) {
	opts := queue.LeaseOptions{Records: w.cfg.Records, Bytes: w.cfg.Bytes, Linger: w.cfg.Linger, Duration: w.cfg.LeaseDuration, Settle: w.settle}
	pause := backoff{}
	for ctx.Err() == nil {
		start := time.Now()
		b, err := w.flow.Queue.Lease(ctx, opts)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			observe(w.cfg.Observer, Event{Op: OpLease, Duration: time.Since(start), Err: err})
			w.cfg.Logger.Warn("leasing failed; trying again", "queue", w.flow.Queue.Name(), "err", err)
			_ = sleep(ctx, pause.next())
			continue
		}
		observe(w.cfg.Observer, Event{Op: OpLease, Batch: b.ID, Records: len(b.Payloads), Duration: time.Since(start)})
		if err := w.handle(work, b); err != nil {
			if isUnavailable(err) {
				_ = sleep(ctx, pause.next())
			}
			continue
		}
		pause = backoff{}
	}
}

// handle takes one leased batch through the chain into staging. The error is what kept it from being handed off.
func (w *Worker[T]) handle(work context.Context, qb *queue.Batch) error {
	b := newBatch(qb)
	ctx, end := w.heartbeat(work, b)
	err := w.process(ctx, b)
	cause := context.Cause(ctx)
	end()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, queue.ErrLeaseLost), errors.Is(err, errBatchGone), errors.Is(cause, queue.ErrLeaseLost):
		// Somebody else has the batch, or it is done. Nothing to give back.
		w.cfg.Logger.Info("batch lost to another worker", "batch", qb.ID, "attempt", qb.Attempt)
		observe(w.cfg.Observer, Event{Op: OpRelease, Batch: qb.ID, Records: len(qb.Payloads), Err: queue.ErrLeaseLost})
		return err
	case errors.Is(cause, errHeldTooLong):
		// The transform hung; whatever it does now, the lease runs out, and that counts as a crash.
		w.cfg.Logger.Error("batch held too long; its lease is left to expire", "batch", qb.ID, "hold", w.cfg.BatchTimeout)
		observe(w.cfg.Observer, Event{Op: OpRelease, Batch: qb.ID, Records: len(qb.Payloads), Err: errHeldTooLong})
		return err
	}
	release := queue.ReleaseOptions{}
	if isUnavailable(err) || work.Err() != nil {
		w.cfg.Logger.Warn("batch given back: not its fault", "batch", qb.ID, "err", err)
	} else {
		release.Failure = err.Error()
		w.cfg.Logger.Warn("batch failed", "batch", qb.ID, "attempt", qb.Attempt, "failures", qb.Failures+1, "err", err)
	}
	observe(w.cfg.Observer, Event{Op: OpRelease, Batch: qb.ID, Records: len(qb.Payloads), Err: err})
	rctx, cancel := context.WithTimeout(context.WithoutCancel(work), 5*time.Second)
	defer cancel()
	if rerr := w.flow.Queue.Release(rctx, qb, release); rerr != nil && !errors.Is(rerr, queue.ErrLeaseLost) {
		w.cfg.Logger.Warn("releasing failed; the lease will expire", "batch", qb.ID, "err", rerr)
	}
	return err
}

func (w *Worker[T]) process(ctx context.Context, b *Batch) error {
	start := time.Now()
	load, err := w.transform(ctx, b)
	observe(w.cfg.Observer, Event{Op: OpTransform, Batch: b.ID, Records: len(b.Payloads), Duration: time.Since(start), Err: err})
	if err != nil {
		return err
	}
	b.staging.Store(true)
	b.Annotated = b.Annotated || b.keys != nil // it has been claimed just now
	start = time.Now()
	outcome, err := w.stage(ctx, load)
	observe(w.cfg.Observer, Event{Op: OpStage, Batch: b.ID, Records: len(b.Payloads), Rows: int64(len(load.Rows)), Duration: time.Since(start), Err: err})
	if err != nil {
		return err
	}
	if outcome == staging.OutcomeAlreadyPromoted || outcome == staging.OutcomeAlreadyVoid {
		// The ledger has decided; finish what it says.
		s, err := w.settle(ctx, b.Batch)
		if err == nil {
			err = w.flow.Queue.Settle(ctx, b.Batch, s)
		}
		if err == nil {
			observe(w.cfg.Observer, Event{Op: OpAck, Batch: b.ID, Records: 1})
			w.flow.madeRoom(ctx)
		}
		return Unavailable(err)
	}
	// Staged, now or before: whoever promotes takes it from here.
	start = time.Now()
	err = w.flow.Queue.Handoff(ctx, b.Batch)
	observe(w.cfg.Observer, Event{Op: OpHandoff, Batch: b.ID, Records: len(b.Payloads), Duration: time.Since(start), Err: err})
	if err != nil {
		return Unavailable(err)
	}
	if w.flow.Signals != nil {
		_ = w.flow.Signals.Send(ctx, SignalStaged) // a hint: the promoter looks by itself too
	}
	return nil
}

// transform runs the chain and adds up what became of the records.
func (w *Worker[T]) transform(ctx context.Context, b *Batch) (load staging.Load[T], err error) {
	out, err := w.flow.runChain(ctx, b)
	if err != nil {
		return load, err
	}
	return staging.Load[T]{
		Batch: stagingBatch(b.Batch, w.cfg.Name), Rows: out.Values, Pos: out.Pos,
		Rejects: b.rejects, Duplicates: b.dups, Filtered: b.filtered, Payloads: b.Payloads,
	}, nil
}

// stage copies the rows into staging. While Postgres is away it waits, with the lease kept alive: a batch never pays for that.
func (w *Worker[T]) stage(ctx context.Context, load staging.Load[T]) (staging.Outcome, error) {
	pause := backoff{}
	for {
		outcome, err := w.stageOnce(ctx, load)
		if err == nil {
			return outcome, nil
		}
		if ctx.Err() != nil {
			return outcome, Unavailable(err)
		}
		if !transient(err) && !errors.Is(err, context.DeadlineExceeded) {
			return outcome, err
		}
		w.cfg.Logger.Warn("staging failed; trying again", "batch", load.Batch.ID, "err", err)
		if sleep(ctx, pause.next()) != nil {
			return outcome, Unavailable(err)
		}
	}
}

// stageOnce bounds one try, so that a server that answers nothing is left, and catches panics of the caller's code in the encoding of rows.
func (w *Worker[T]) stageOnce(ctx context.Context, load staging.Load[T]) (outcome staging.Outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.BatchTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("pipeline: panic while staging: %v\n%s", p, debug.Stack())
		}
	}()
	return w.flow.Table.Stage(ctx, load)
}
