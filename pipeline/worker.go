package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/pgschema"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Worker leases batches, runs them through a chain, stages the rows in Postgres and hands the
// batches off to the promoter. Any number of workers, in any number of processes, may work on one
// queue. A Worker is safe for concurrent use, but only one Run may be in progress.
//
// A record that kills the process is found: its batch is split until the record is alone in the
// dead-letter list. To spare other batches, one that has crashed before runs the chain and the
// encoding alone in its process. The others wait meanwhile, up to a second for each such batch.
type Worker[T any] struct {
	flow   Flow[T]
	cfg    WorkerConfig
	settle queue.SettleFunc
	run    sync.Mutex
	events *events
	hand   *hand

	gate     *backpressure.Gate // for checkGate; nil: it counts nothing of the queue
	gateOnce sync.Once

	redis    *outage // steps on the queue
	postgres *outage // staging
	chain    *outage // batches that came back through no fault of their own
}

// NewWorker returns a worker for a flow. It performs no I/O.
func NewWorker[T any](flow Flow[T], cfg WorkerConfig) (*Worker[T], error) {
	flow, err := flow.validate()
	if err != nil {
		return nil, err
	}
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	name := flow.Queue.Name()
	gate := flow.measured()
	flow = flow.bounded(cfg.CallTimeout, cfg.BatchTimeout)
	ev := &events{observer: cfg.Observer, queue: name, program: cfg.Name}
	return &Worker[T]{
		flow: flow, cfg: cfg, settle: flow.settler(cfg.Name, cfg.Logger, cfg.LeaseDuration/2), events: ev,
		hand: newHand(cfg.MaxRecords, cfg.MaxBytes), gate: gate,
		redis:    flow.watch(newOutage(cfg.Logger, "queue access", "queue", name), ev),
		postgres: flow.watch(newOutage(cfg.Logger, "staging", "queue", name), ev),
		chain:    flow.watch(newOutage(cfg.Logger, "processing", "queue", name), ev),
	}, nil
}

// hangTimeout is how long Run waits, after ShutdownTimeout, for functions that may ignore their
// context. lastGrace is how long the last calls for a batch may take after ShutdownTimeout. It and
// the reports of outages end before hangTimeout, so a silent store is not taken for such a
// function.
const (
	hangTimeout = 5 * time.Second
	lastGrace   = 2 * time.Second
)

// Run works until ctx is done. Then it stops leasing, finishes its batches, and returns nil. It
// releases batches that are not finished within ShutdownTimeout. If a function in the chain neither
// returns nor checks its context, Run abandons it 5 s later and returns ErrStageHangs. While Redis
// or Postgres is unavailable, Run waits and retries. An unavailable Postgres never counts against a
// batch. An outage of Redis that outlasts a lease counts as a crash. When the program has closed a
// client or a pool of the flow, which no waiting mends, Run ends with an error. A second Run at the
// same time returns ErrRunning.
func (w *Worker[T]) Run(ctx context.Context) error {
	if w.hand == nil {
		return fmt.Errorf("%w: the Worker is empty, must come from NewWorker", ErrConfig)
	}
	if !w.run.TryLock() {
		return ErrRunning
	}
	defer w.run.Unlock()
	defer w.events.start(ctx)()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	work, cancel := withGrace(ctx, w.cfg.ShutdownTimeout) // for what is in hand
	defer cancel()

	var wg sync.WaitGroup
	for i := range w.cfg.Concurrency {
		wg.Go(func() { w.loop(ctx, work, stop, "loop "+strconv.Itoa(i)) })
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	select {
	case <-ended:
		return closedStore(ctx)
	case <-work.Done():
	}
	// The time is up, and functions that check their context return now. Nothing can stop the
	// others.
	t := time.NewTimer(hangTimeout)
	defer t.Stop()
	select {
	case <-ended:
		return closedStore(ctx)
	case <-t.C:
		return ErrStageHangs
	}
}

// loop holds one batch at a time. While Postgres is unavailable it keeps the batch that it could
// not stage, and so leases no other.
func (w *Worker[T]) loop(ctx, work context.Context, stop context.CancelCauseFunc, name string) {
	defer w.redis.gone(name)
	defer w.chain.gone(name)
	opts := queue.LeaseOptions{Records: w.cfg.Records, Bytes: w.cfg.Bytes, Linger: w.cfg.Linger, Idle: w.cfg.Linger, Duration: w.cfg.LeaseDuration, Settle: w.settle, Worker: w.cfg.Name}
	leasing, processing := backoff{}, backoff{}
	var leases, steps closings
	for ctx.Err() == nil {
		if w.hand.reserve(ctx, w.cfg.Records, w.cfg.Bytes) != nil {
			return
		}
		start := time.Now()
		b, err := w.flow.Queue.Lease(ctx, opts)
		w.hand.took(w.cfg.Records, w.cfg.Bytes, b)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			w.events.emit(ctx, Event{Op: OpLease, Duration: time.Since(start), InProgress: w.hand.now(), Err: err})
			w.redis.failed(name, err, "step", "lease")
			if leases.by(err) {
				stop(&closedError{err})
				return
			}
			if sleep(ctx, leasing.next()) == nil {
				w.probe(ctx, name)
			}
			continue
		}
		leasing, leases = backoff{}, closings{}
		w.redis.succeeded(name)
		w.emit(ctx, b, Event{Op: OpLease, Duration: time.Since(start)})
		w.gateOnce.Do(func() { w.checkGate(work, b) })
		err = w.handle(work, b, name)
		w.hand.put(b)
		if steps.by(err) {
			stop(&closedError{err})
			return
		}
		if err != nil {
			if isUnavailable(err) || isMisconfigured(err) {
				_ = sleep(ctx, processing.next())
			}
			continue
		}
		w.chain.succeeded(name)
		processing = backoff{}
	}
}

// emit reports a step on a batch.
func (w *Worker[T]) emit(ctx context.Context, b *queue.Batch, e Event) {
	e.Batch, e.Attempt, e.Batches, e.Records, e.InProgress = b.ID, b.Attempt, 1, len(b.Payloads), w.hand.now()
	w.events.emit(ctx, e)
}

// probe asks Redis for an answer after a failure. Lease does not return while there is nothing to
// lease, so it does not show that Redis works again.
func (w *Worker[T]) probe(ctx context.Context, name string) {
	if _, err := w.flow.Queue.Stats(ctx); err == nil {
		w.redis.succeeded(name)
	}
}

// handle takes one leased batch through the chain into staging. It returns the error that kept the
// batch from being handed off.
func (w *Worker[T]) handle(work context.Context, qb *queue.Batch, loop string) error {
	last, cancel := withGrace(work, lastGrace)
	defer cancel()
	held := w.hold(work, qb)
	err := w.process(last, held, newBatch(qb))
	gone := errors.Is(err, errBatchGone)
	if gone && w.flow.Queue.Extend(last, qb, w.cfg.LeaseDuration) == nil { // the queue has the batch
		gone, err = false, errWindowElsewhere
	}
	cause := context.Cause(held.ctx)
	held.end()
	log := w.cfg.Logger.With("queue", w.flow.Queue.Name(), "batch", qb.ID, "attempt", qb.Attempt)
	switch {
	case err == nil:
		return nil
	case gone, errors.Is(err, queue.ErrLeaseLost), errors.Is(cause, queue.ErrLeaseLost):
		// Another worker has the batch, or it is finished. There is nothing to give back.
		log.Info("pipeline: lost a batch to another worker")
		w.emit(work, qb, Event{Op: OpRelease, Err: queue.ErrLeaseLost})
		return err
	case errors.Is(cause, errBatchTimeout):
		// The transform hangs. Whatever it does now, the lease expires, and that counts as a crash.
		log.Error("pipeline: the chain hangs; the lease of its batch is left to expire", "timeout", w.cfg.BatchTimeout)
		w.emit(work, qb, Event{Op: OpRelease, Err: errBatchTimeout})
		return err
	}
	release := queue.ReleaseOptions{}
	switch {
	case work.Err() != nil:
		log.Info("pipeline: gave back a batch on shutdown", "error", oneLine(err))
	case isUnavailable(err), isMisconfigured(err):
		w.chain.failed(loop, err, "batch", qb.ID)
	default:
		release.Failure = oneLine(err)
		args := []any{"failures", qb.Failures + 1, "error", oneLine(err)}
		var p *panicError
		if errors.As(err, &p) {
			args = append(args, "stack", string(p.stack))
		}
		log.Warn("pipeline: a batch failed", args...)
	}
	w.emit(work, qb, Event{Op: OpRelease, Err: err})
	w.release(last, qb, release)
	return err
}

// measured returns the gate if it counts the records that the queue has in flight.
func (f Flow[T]) measured() *backpressure.Gate {
	gate, _ := f.Gate.(*backpressure.Gate)
	q, ok := f.Queue.(interface {
		DepthKeys() (lists []string, hash string, plus, minus []string)
	})
	if gate == nil || !ok {
		return nil
	}
	if _, inFlight, _, _ := q.DepthKeys(); !slices.Contains(gate.SourceKeys(), inFlight) {
		return nil
	}
	return gate
}

// checkGate logs that the gate counts elsewhere: it sees no record although the queue has leased a
// batch. It then holds no producer back. It runs once, because it costs a round trip.
func (w *Worker[T]) checkGate(ctx context.Context, b *queue.Batch) {
	if w.gate == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, w.cfg.CallTimeout)
	defer cancel()
	s, err := w.gate.Stats(ctx)
	if err == nil && s.Records == 0 && s.Bytes == 0 && w.flow.Queue.Extend(ctx, b, w.cfg.LeaseDuration) == nil {
		w.cfg.Logger.Error("pipeline: Flow.Gate does not see the records that the queue has leased, so it holds no producer back: "+
			"its client must use the Redis and the database number of the queue", "queue", w.flow.Queue.Name(), "gate", w.gate.Name())
	}
}

// errWindowElsewhere is the error of a claim whose batch only the queue sees.
var errWindowElsewhere = fmt.Errorf("%w: the window of the Dedup stage in Flow.Chain does not see a batch that the queue has leased: "+
	"its client must use the Redis and the database number of the queue", ErrConfig)

// release gives a batch back. While Redis does not answer it retries: nothing else can be done
// then, and a batch that is not given back waits for the end of its lease, which counts as a crash.
func (w *Worker[T]) release(last context.Context, qb *queue.Batch, o queue.ReleaseOptions) {
	defer w.redis.gone(qb.ID)
	pause := backoff{}
	var calls closings
	for start := time.Now(); ; {
		err := w.flow.Queue.Release(last, qb, o)
		if err == nil || errors.Is(err, queue.ErrLeaseLost) {
			w.redis.succeeded(qb.ID)
			return
		}
		w.redis.failed(qb.ID, err, "step", "release", "batch", qb.ID)
		if calls.by(err) || time.Since(start) > w.cfg.LeaseDuration || sleep(last, pause.next()) != nil {
			return
		}
	}
}

// process runs the chain, stages the rows and hands the batch off. last outlives the context of the
// lease, for the calls that end the batch.
func (w *Worker[T]) process(last context.Context, held *lease, b *Batch) error {
	ctx := held.ctx
	if err := held.enter(); err != nil {
		return err
	}
	start := time.Now()
	load, err := w.transform(ctx, b)
	w.emit(ctx, b.Batch, Event{
		Op: OpTransform, Rows: int64(len(load.Rows)), Duplicates: b.dups, Filtered: b.filtered, Rejected: len(b.rejects),
		Codes: b.codes(), Stages: b.stages, Duration: time.Since(start), Err: err,
	})
	if err != nil {
		return err
	}
	held.leave()
	load.Encoding = held.encoding
	b.Annotated = b.Annotated || b.keys != nil // the chain has just claimed its records
	start = time.Now()
	outcome, err := w.stage(ctx, load)
	w.emit(ctx, b.Batch, Event{Op: OpStage, Rows: int64(len(load.Rows)), Duration: time.Since(start), Err: err})
	if err != nil {
		return err
	}
	held.finish()
	if outcome == staging.OutcomeAlreadyPromoted || outcome == staging.OutcomeAlreadyVoid {
		return w.finish(ctx, b)
	}
	// The batch is staged, now or before. The promoter takes it from here.
	start = time.Now()
	err = w.handoff(ctx, last, b)
	w.emit(ctx, b.Batch, Event{Op: OpHandoff, Duration: time.Since(start), Err: err})
	if err != nil {
		return Unavailable(err)
	}
	w.flow.signalStaged(last, b.Queue)
	return nil
}

// handoff hands a staged batch off. While Redis does not answer it retries: only this step is
// missing. A call without an answer may have done it, and then the next one is refused.
func (w *Worker[T]) handoff(ctx, last context.Context, b *Batch) error {
	defer w.redis.gone(b.ID)
	pause := backoff{}
	var calls closings
	for tries := 1; ; tries++ {
		err := w.flow.Queue.Handoff(ctx, b.Batch)
		lost := errors.Is(err, queue.ErrLeaseLost)
		if err == nil || lost {
			w.redis.succeeded(b.ID)
			if lost && tries > 1 && w.handedOff(last, b) {
				return nil
			}
			return err
		}
		if ctx.Err() == nil {
			w.redis.failed(b.ID, err, "step", "handoff", "batch", b.ID)
		}
		if calls.by(err) || sleep(ctx, pause.next()) != nil {
			if w.handedOff(last, b) {
				return nil
			}
			return err
		}
	}
}

// handedOff reports whether this attempt of a staged batch was handed off, or whether the batch is
// promoted already.
func (w *Worker[T]) handedOff(ctx context.Context, b *Batch) bool {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.CallTimeout)
	defer cancel()
	list, err := w.flow.Queue.HandedOff(ctx)
	if err != nil {
		return false
	}
	for _, h := range list {
		if h.ID == b.ID && h.Attempt == b.Attempt {
			return true
		}
	}
	fates, err := w.flow.Table.Fates(ctx, []string{b.ID})
	return err == nil && len(fates) == 1 && fates[0] == staging.FatePromoted
}

// finish completes what the ledger has decided about a batch: promoted or void.
func (w *Worker[T]) finish(ctx context.Context, b *Batch) error {
	s, err := w.settle(ctx, b.Batch)
	if err != nil {
		return Unavailable(err)
	}
	if err := w.flow.Queue.Settle(ctx, b.Batch, s); err != nil {
		return Unavailable(err)
	}
	w.emit(ctx, b.Batch, Event{Op: OpAck})
	w.flow.notifyGate(ctx)
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
		Rejects: b.rejects, Duplicates: b.dups, Filtered: b.filtered, Payloads: b.Payloads, Stages: b.drops,
	}, nil
}

// stage copies the rows into staging. While Postgres is unavailable it waits and keeps the lease: a
// batch never pays for that.
func (w *Worker[T]) stage(ctx context.Context, load staging.Load[T]) (staging.Outcome, error) {
	id := load.Batch.ID
	defer w.postgres.gone(id)
	pause := backoff{}
	for {
		outcome, err := w.stageOnce(ctx, load)
		if err == nil {
			w.postgres.succeeded(id)
			return outcome, nil
		}
		if ctx.Err() != nil {
			return outcome, Unavailable(err)
		}
		if !isTransient(err) {
			return outcome, err
		}
		if !errors.As(err, new(*leaseError)) {
			w.postgres.failed(id, err, "batch", id)
		}
		if pgschema.IsClosed(err) || sleep(ctx, pause.next()) != nil {
			return outcome, Unavailable(err)
		}
	}
}

// stageOnce catches panics of the caller's code that encodes rows.
func (w *Worker[T]) stageOnce(ctx context.Context, load staging.Load[T]) (outcome staging.Outcome, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = newPanicError("the encoding of rows", p)
		}
	}()
	return w.flow.Table.Stage(ctx, load)
}
