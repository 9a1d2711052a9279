package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Promoter moves staged batches into the durable table, acknowledges them after the commit, and
// redelivers batches that a crash of Postgres has removed from staging. One is enough. Several take
// turns. If the table has lanes ([staging.Config].Lanes), a promoter promotes them at the same
// time, each on a connection of its own, and several promoters share them. A Promoter is safe for
// concurrent use, but only one Run may be in progress.
type Promoter[T any] struct {
	flow Flow[T]
	cfg  PromoterConfig
	run  sync.Mutex
	wake []chan struct{} // of the lanes

	events     *events
	promoting  *outage
	refreshing *outage
	pruning    *outage
	pruner     pruner  // of the table; nil: it has none
	clock      clocked // the same
	adviser    adviser // the same
	prunes     *patience
	sharded    bool // the queue may fail in part

	epoch string       // of the UNLOGGED tables, as last seen; belongs to Run
	asked time.Time    // when promotedElsewhere was last done; belongs to Run
	due   atomic.Int64 // when the next reconcile is due, in Unix nanoseconds
	busy  atomic.Int32 // lanes other than the first with a promotion under way
}

// NewPromoter returns a promoter for the same flow as its workers. It performs no I/O.
func NewPromoter[T any](flow Flow[T], cfg PromoterConfig) (*Promoter[T], error) {
	flow, err := flow.validate()
	if err != nil {
		return nil, err
	}
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	pruner, _ := flow.Table.(pruner)
	if cfg.Retention > 0 && pruner == nil {
		return nil, fmt.Errorf("%w: PromoterConfig.Retention is %v, must be 0 for a table without a method Prune", ErrConfig, cfg.Retention)
	}
	clock, _ := flow.Table.(clocked)
	adviser, _ := flow.Table.(adviser)
	name := flow.Queue.Name()
	_, sharded := flow.Queue.(*queue.Shards)
	wake := []chan struct{}{make(chan struct{}, 1)}
	if t, ok := flow.Table.(interface{ Lanes() int }); ok {
		for len(wake) < t.Lanes() {
			wake = append(wake, make(chan struct{}, 1))
		}
	}
	flow = flow.bounded(cfg.CallTimeout, cfg.CallTimeout)
	ev := &events{observer: cfg.Observer, queue: name, program: cfg.Name}
	return &Promoter[T]{
		flow: flow, cfg: cfg, wake: wake, events: ev, pruner: pruner, clock: clock, adviser: adviser, sharded: sharded,
		prunes:     newPatience(cfg.CallTimeout, mostPromoteTimeout),
		promoting:  flow.watch(newOutage(cfg.Logger, "promoting", "queue", name), ev),
		refreshing: flow.watch(newOutage(cfg.Logger, "refreshing views", "queue", name), ev),
		pruning:    flow.watch(newOutage(cfg.Logger, "pruning", "queue", name), ev),
	}, nil
}

// Run promotes whenever a batch is staged, until ctx is done. Then it finishes the current
// promotion, refreshes if that is due, and returns nil, all within ShutdownTimeout. While a store
// is unavailable, Run retries. When the program has closed a client or a pool of the flow, Run ends
// with an error. A second Run at the same time returns ErrRunning.
//
// When Run begins, it logs what makes promotions slow and an administrator can change, if the table
// has a method Advise, as *staging.Table does.
func (p *Promoter[T]) Run(ctx context.Context) error {
	if p.events == nil {
		return fmt.Errorf("%w: the Promoter is empty, must come from NewPromoter", ErrConfig)
	}
	if !p.run.TryLock() {
		return ErrRunning
	}
	defer p.run.Unlock()
	defer p.events.start(ctx)()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	work, cancel := withGrace(ctx, p.cfg.ShutdownTimeout) // for what is in hand
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()

	if p.flow.Signals != nil {
		wg.Go(func() { p.listen(ctx) })
	}
	if p.adviser != nil {
		wg.Go(func() { p.advise(ctx) })
	}
	if p.cfg.Retention > 0 {
		wg.Go(func() { p.pruneLoop(ctx) })
	}
	dirty := make(chan struct{}, 1)
	if p.cfg.Refresh != nil {
		promoted := make(chan struct{})
		defer close(promoted)
		wg.Go(func() { p.refreshLoop(ctx, work, dirty, promoted) })
	}
	p.reconcileAfter(0)
	p.changed(dirty) // what was promoted before this start may not have been refreshed
	var lanes sync.WaitGroup
	for lane := 2; lane <= len(p.wake) && p.cfg.Promote.Lane == 0; lane++ {
		lanes.Go(func() {
			p.promoteLoop(ctx, stop, lane, func() error { return p.drainLane(ctx, work, dirty, lane) })
		})
	}
	p.promoteLoop(ctx, stop, 1, func() error { return p.round(ctx, work, dirty) })
	lanes.Wait()
	return closedStore(ctx)
}

func (p *Promoter[T]) listen(ctx context.Context) {
	err := p.flow.Signals.Listen(ctx, func(s Signal) {
		if s == SignalStaged {
			for _, wake := range p.wake {
				poke(wake)
			}
		}
	})
	if ctx.Err() == nil {
		p.cfg.Logger.Warn("pipeline: no more signals; the promoter only polls", "queue", p.flow.Queue.Name(), "error", oneLine(err))
	}
}

// promoteLoop calls round for a lane when something may be staged there.
func (p *Promoter[T]) promoteLoop(ctx context.Context, stop context.CancelCauseFunc, lane int, round func() error) {
	who := ""
	if lane > 1 {
		who = fmt.Sprintf("lane %d", lane)
	}
	defer p.promoting.gone(who)
	tick := time.NewTicker(p.cfg.PollInterval)
	defer tick.Stop()
	pause := backoff{}
	var rounds closings
	for ctx.Err() == nil {
		err := round()
		if err != nil && ctx.Err() != nil {
			p.cfg.Logger.Warn("pipeline: stopped during a promotion; the next start reconciles", "queue", p.flow.Queue.Name(), "error", oneLine(err))
			return
		}
		if err != nil {
			p.promoting.failed(who, err)
			if rounds.by(err) {
				stop(&closedError{err})
				return
			}
			p.reconcileAfter(0) // nothing is certain after an error
			_ = sleep(ctx, pause.next())
			continue
		}
		p.promoting.succeeded(who)
		pause, rounds = backoff{}, closings{}
		select {
		case <-ctx.Done():
		case <-p.wake[lane-1]:
		case <-tick.C:
		}
	}
}

// drainLane promotes a lane other than the first until nothing is staged there, and acknowledges.
func (p *Promoter[T]) drainLane(ctx, work context.Context, dirty chan<- struct{}, lane int) error {
	p.busy.Add(1)
	defer p.busy.Add(-1)
	for ctx.Err() == nil {
		n, err := p.promote(work, lane)
		if n > 0 {
			p.changed(dirty) // also if the acknowledgement failed
		}
		if err != nil || n == 0 {
			return err
		}
		if p.reconcileDue() {
			poke(p.wake[0])
		}
	}
	return nil
}

// round does what is due now: it reconciles, promotes until nothing is staged in the first lane,
// and acknowledges.
func (p *Promoter[T]) round(ctx, work context.Context, dirty chan<- struct{}) error {
	epoch, err := p.flow.Table.Epoch(work)
	if err != nil {
		return err
	}
	if epoch != p.epoch {
		if p.epoch != "" {
			p.cfg.Logger.Warn("pipeline: Postgres has crashed and emptied staging; its batches are redelivered", "queue", p.flow.Queue.Name())
		}
		p.reconcileAfter(0)
	}
	// A queue of several nodes may fail in part. What was staged is promoted all the same: that needs
	// no queue, and the batches of the other nodes are acknowledged. Nor does a long promotion in
	// another lane, which a reconcile waits for, hold up the first one.
	var failed error
	if p.reconcileDue() {
		if failed = p.Reconcile(work); failed == nil {
			p.epoch = epoch
		} else if !p.sharded && (len(p.wake) == 1 || !errors.Is(failed, staging.ErrBusy)) {
			return failed
		}
		if failed != nil {
			p.reconcileAfter(min(reconcileRetry, p.cfg.ReconcileInterval))
		}
	}
	for ctx.Err() == nil {
		n, err := p.promote(work, p.firstLane())
		if n > 0 {
			p.changed(dirty) // also if the acknowledgement failed
		}
		if err != nil {
			return errors.Join(failed, err)
		}
		if n == 0 && failed == nil {
			return p.promotedElsewhere(work)
		}
		if n == 0 {
			break
		}
		if p.reconcileDue() {
			poke(p.wake[0]) // reconcile gets its turn however much there is to promote
			return failed
		}
	}
	return failed
}

// reconcileRetry is how long a promoter goes on promoting after a part of a reconcile has failed.
const reconcileRetry = 5 * time.Second

// changed reports that the target has new rows: views read it.
func (p *Promoter[T]) changed(dirty chan<- struct{}) {
	poke(dirty)
	if p.cfg.Notify != nil {
		p.cfg.Notify()
	}
}

// promotedElsewhere acknowledges, at once, the batches of this queue that the promoter of another
// queue has promoted: several queues may feed one table. It costs one command when nothing is
// handed off. While this promoter's other lanes are busy, the handed-off batches may be theirs:
// then it reconciles only every elsewhereInterval, and a timeout of its wait for such a lane is no
// failure.
func (p *Promoter[T]) promotedElsewhere(ctx context.Context) error {
	busy := p.busy.Load() > 0
	if busy && time.Since(p.asked) < elsewhereInterval {
		return nil
	}
	p.asked = time.Now()
	s, err := p.flow.Queue.Stats(ctx)
	if err != nil || s.HandedOffBatches == 0 {
		return err
	}
	if err := p.Reconcile(ctx); err != nil && (!busy || !errors.Is(err, staging.ErrBusy)) {
		return err
	}
	return nil
}

// elsewhereInterval is how often a promoter whose lanes are busy looks for batches that another
// promoter has promoted.
const elsewhereInterval = 2 * time.Second

func (p *Promoter[T]) reconcileDue() bool { return time.Now().UnixNano() >= p.due.Load() }

func (p *Promoter[T]) reconcileAfter(d time.Duration) { p.due.Store(time.Now().Add(d).UnixNano()) }

// Promote performs one promotion: staged rows go into the target, then the batches are
// acknowledged. It returns the number of batches that it found, 0 if nothing was staged. With an
// error, the number is that of the batches whose rows are in the target, and of which not all are
// acknowledged. Run calls it on every signal. Call it yourself to promote by hand.
func (p *Promoter[T]) Promote(ctx context.Context) (int, error) {
	return p.promote(ctx, p.cfg.Promote.Lane)
}

// firstLane is the lane of the loop that also reconciles: the only one where there are no
// others, or where PromoterConfig.Promote.Lane chooses one.
func (p *Promoter[T]) firstLane() int {
	if len(p.wake) == 1 || p.cfg.Promote.Lane > 0 {
		return p.cfg.Promote.Lane
	}
	return 1
}

func (p *Promoter[T]) promote(ctx context.Context, lane int) (int, error) {
	start := time.Now()
	options := p.cfg.Promote
	options.Lane = lane
	prom, err := p.flow.Table.Promote(ctx, options)
	if err != nil {
		p.events.emit(ctx, Event{Op: OpPromote, Duration: time.Since(start), Err: err})
		return 0, err
	}
	found := len(prom.Batches) + len(prom.Mismatched) + len(prom.TooOld)
	if found == 0 {
		return 0, nil
	}
	took := time.Since(start)
	all, promoted := make([]string, 0, found), make([]string, 0, len(prom.Batches))
	for _, b := range prom.Batches {
		all = append(all, b.ID)
		if b.Fate == staging.FatePromoted {
			promoted = append(promoted, b.ID)
		}
	}
	p.events.emit(ctx, Event{
		Op: OpPromote, IDs: append(append(all, prom.Mismatched...), prom.TooOld...), Batches: found,
		Records: prom.Records, Rows: int64(prom.Rows), Conflicts: prom.Conflicts, RejectedByRule: prom.RejectedByRule,
		Duplicates: prom.Duplicates, Filtered: prom.Filtered, Rejected: prom.Rejected, Duration: took,
	})
	if len(prom.Mismatched) > 0 {
		p.cfg.Logger.Error("pipeline: staged rows differ from the registry's count; the batches are redelivered", "batches", prom.Mismatched)
	}
	if len(prom.TooOld) > 0 {
		p.cfg.Logger.Error("pipeline: batches are older than the ledger's floor; they are not promoted and end in the dead-letter list", "batches", prom.TooOld)
	}
	if len(promoted) < found {
		p.reconcileAfter(0) // the split of a void batch must be finished, and one set aside redelivered
	}
	if err := p.ack(ctx, promoted); err != nil {
		return found, err
	}
	p.flow.signal(ctx, SignalPromoted)
	return found, nil
}

const ackChunk = 256 // batches of one script call

func (p *Promoter[T]) ack(ctx context.Context, ids []string) error {
	for len(ids) > 0 {
		n := min(len(ids), ackChunk)
		start := time.Now()
		acks, err := p.flow.acks(ctx, ids[:n])
		if err != nil {
			return err
		}
		if _, err := p.flow.Queue.AckWith(ctx, acks...); err != nil {
			return fmt.Errorf("pipeline: could not acknowledge %d promoted batches: %w", n, err)
		}
		p.events.emit(ctx, Event{Op: OpAck, IDs: ids[:n:n], Batches: n, Duration: time.Since(start)})
		ids = ids[n:]
		p.flow.notifyGate(ctx)
	}
	return nil
}

// Reconcile compares every handed-off batch with the registries and the ledger. It leaves a staged
// batch alone, acknowledges a promoted one, finishes the split or burial of a void one, and
// redelivers at once those that Postgres has lost. Run calls it at start, after an error, and every
// ReconcileInterval.
func (p *Promoter[T]) Reconcile(ctx context.Context) error {
	start := time.Now()
	done, err := p.flow.Queue.Reconcile(ctx, p.fates, p.flow.settler("promoter", p.cfg.Logger, p.cfg.CallTimeout/2))
	p.events.emit(ctx, Event{Op: OpReconcile, Batches: done.Redelivered, Duration: time.Since(start), Err: err})
	if err != nil {
		return err
	}
	if done.Redelivered > 0 {
		p.cfg.Logger.Info("pipeline: reconciled", "queue", p.flow.Queue.Name(), "redelivered", done.Redelivered, "acknowledged", done.Acked)
	}
	if done.Acked > 0 {
		p.events.emit(ctx, Event{Op: OpAck, Batches: done.Acked})
		p.flow.notifyGate(ctx)
	}
	p.reconcileAfter(p.cfg.ReconcileInterval)
	return nil
}

// fates translates the table's answers about batches into the queue's terms, with the claims to
// give back for the promoted ones.
func (p *Promoter[T]) fates(ctx context.Context, ids []string) ([]queue.BatchFate, error) {
	fates, err := p.flow.Table.Fates(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make([]queue.BatchFate, len(ids))
	var promoted []string
	for i, f := range fates {
		switch f {
		case staging.FateStaged:
			out[i].Fate = queue.FateStaged
		case staging.FateVoid:
			out[i].Fate = queue.FateVoid
		case staging.FatePromoted:
			out[i].Fate = queue.FatePromoted
			promoted = append(promoted, ids[i])
		}
	}
	acks, err := p.flow.acks(ctx, promoted)
	if err != nil {
		return nil, err
	}
	for i := range out {
		if out[i].Fate == queue.FatePromoted {
			out[i].Undo, acks = acks[0].Undo, acks[1:]
		}
	}
	return out, nil
}
