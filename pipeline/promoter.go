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

// Promoter moves staged batches into the durable table, acknowledges them after the commit, and brings back those that a crash
// of Postgres has emptied out of staging. One is enough; several take turns. A Promoter is safe for concurrent use, but Run may be under way only once.
type Promoter[T any] struct {
	flow Flow[T]
	cfg  PromoterConfig
	run  sync.Mutex
	wake chan struct{}

	epoch string       // of the UNLOGGED tables, as last seen; Run's own
	due   atomic.Int64 // when the next reconcile is due, in Unix nanoseconds
}

// NewPromoter makes a promoter for a flow, the one that its workers have.
func NewPromoter[T any](flow Flow[T], cfg PromoterConfig) (*Promoter[T], error) {
	if err := flow.check(); err != nil {
		return nil, err
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Promoter[T]{flow: flow, cfg: cfg, wake: make(chan struct{}, 1)}, nil
}

// Run promotes whenever something is staged, until ctx is done; then it finishes the promotion in hand, for Grace at most, and returns nil. While a
// store is away it tries again. A second Run at the same time is an error.
func (p *Promoter[T]) Run(ctx context.Context) error {
	if !p.run.TryLock() {
		return errors.New("pipeline: Promoter.Run: already running")
	}
	defer p.run.Unlock()

	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()

	if p.flow.Signals != nil {
		wg.Go(func() {
			err := p.flow.Signals.Listen(ctx, func(s Signal) {
				if s == SignalStaged {
					poke(p.wake)
				}
			})
			if ctx.Err() == nil {
				p.cfg.Logger.Warn("no signals any more; looking by itself only", "err", err)
			}
		})
	}
	dirty := make(chan struct{}, 1)
	if p.cfg.Refresh != nil {
		wg.Go(func() { p.refreshLoop(ctx, dirty) })
	}

	p.reconcileAfter(0)
	poke(dirty) // what was promoted before this start may not have been refreshed
	tick := time.NewTicker(p.cfg.PollInterval)
	defer tick.Stop()
	pause := backoff{}
	for ctx.Err() == nil {
		err := p.round(ctx, dirty)
		if err != nil && ctx.Err() != nil {
			p.cfg.Logger.Warn("stopped in the middle of a promotion; the next start reconciles", "queue", p.flow.Queue.Name(), "err", err)
		}
		if err != nil && ctx.Err() == nil {
			p.cfg.Logger.Warn("promoting failed; trying again", "queue", p.flow.Queue.Name(), "err", err)
			p.reconcileAfter(0) // nothing is certain after an error
			_ = sleep(ctx, pause.next())
			continue
		}
		pause = backoff{}
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-tick.C:
		}
	}
	return nil
}

// round does what is due now: it reconciles, promotes until nothing is staged, and acknowledges. It outlives ctx by Grace.
func (p *Promoter[T]) round(ctx context.Context, dirty chan<- struct{}) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(p.cfg.ShutdownTimeout, cancel) })()

	epoch, err := p.flow.Table.Epoch(work)
	if err != nil {
		return err
	}
	if epoch != p.epoch {
		if p.epoch != "" {
			p.cfg.Logger.Warn("Postgres has crashed and emptied staging; the batches in it come again")
		}
		p.reconcileAfter(0)
	}
	if p.reconcileDue() {
		if err := p.Reconcile(work); err != nil {
			return err
		}
		p.epoch = epoch
	}
	for ctx.Err() == nil {
		n, err := p.Promote(work)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		poke(dirty)
		if p.reconcileDue() {
			poke(p.wake) // however much there is to promote: round again
			return nil
		}
	}
	return nil
}

func (p *Promoter[T]) reconcileDue() bool { return time.Now().UnixNano() >= p.due.Load() }

func (p *Promoter[T]) reconcileAfter(d time.Duration) { p.due.Store(time.Now().Add(d).UnixNano()) }

// Promote does one promotion: what is staged goes into the target, then the batches are acknowledged. It returns the number of
// batches that it found, 0 when nothing was staged. It is what Run does whenever a signal comes; call it for a promotion by hand.
func (p *Promoter[T]) Promote(ctx context.Context) (int, error) {
	start := time.Now()
	prom, err := p.flow.Table.Promote(ctx, p.cfg.Promote)
	if err != nil {
		observe(p.cfg.Observer, Event{Op: OpPromote, Duration: time.Since(start), Err: err})
		return 0, err
	}
	if len(prom.Batches) == 0 && len(prom.Mismatched) == 0 && len(prom.TooOld) == 0 {
		return 0, nil
	}
	observe(p.cfg.Observer, Event{Op: OpPromote, Records: prom.Records, Rows: int64(prom.Rows), Duration: time.Since(start)})

	ids := make([]string, 0, len(prom.Batches))
	void := 0
	for _, b := range prom.Batches {
		if b.Fate == staging.FatePromoted {
			ids = append(ids, b.ID)
		} else {
			void++
		}
	}
	if len(prom.Mismatched) > 0 {
		p.cfg.Logger.Error("staged rows differ from what was announced; the batches come again", "batches", prom.Mismatched)
	}
	if len(prom.TooOld) > 0 {
		p.cfg.Logger.Error("batches are older than the ledger remembers; they are not promoted and end in the dead list", "batches", prom.TooOld)
	}
	if void > 0 || len(prom.Mismatched) > 0 || len(prom.TooOld) > 0 {
		p.reconcileAfter(0) // void: the split must be finished; put aside: to be redelivered
	}
	if err := p.ack(ctx, ids); err != nil {
		return 0, err
	}
	if p.flow.Signals != nil {
		_ = p.flow.Signals.Send(ctx, SignalPromoted)
	}
	return len(prom.Batches) + len(prom.Mismatched) + len(prom.TooOld), nil
}

const ackChunk = 256 // batches in one script call

func (p *Promoter[T]) ack(ctx context.Context, ids []string) error {
	for len(ids) > 0 {
		n := min(len(ids), ackChunk)
		start := time.Now()
		list, err := p.flow.acks(ctx, ids[:n])
		if err != nil {
			return err
		}
		if _, err := p.flow.Queue.AckWith(ctx, list...); err != nil {
			return fmt.Errorf("pipeline: acknowledging %d promoted batches: %w", n, err)
		}
		observe(p.cfg.Observer, Event{Op: OpAck, Records: n, Duration: time.Since(start)})
		ids = ids[n:]
		p.flow.madeRoom(ctx)
	}
	return nil
}

// Reconcile compares every handed-off batch with the registries and the ledger: what is staged is left, what is promoted is
// acknowledged, what is void is split or buried as was begun, and what Postgres has lost is redelivered at once. Run does
// it at start, after an error, and now and then.
func (p *Promoter[T]) Reconcile(ctx context.Context) error {
	start := time.Now()
	done, err := p.flow.Queue.Reconcile(ctx, func(ctx context.Context, ids []string) ([]queue.BatchFate, error) {
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
		list, err := p.flow.acks(ctx, promoted)
		if err != nil {
			return nil, err
		}
		for i := range out {
			if out[i].Fate == queue.FatePromoted {
				out[i].Undo, list = list[0].Undo, list[1:]
			}
		}
		return out, nil
	}, p.flow.settler("promoter", p.cfg.Logger))
	observe(p.cfg.Observer, Event{Op: OpReconcile, Records: done.Redelivered, Duration: time.Since(start), Err: err})
	if err != nil {
		return err
	}
	if done.Redelivered > 0 {
		p.cfg.Logger.Info("reconciled", "redelivered", done.Redelivered, "acknowledged", done.Acked)
	}
	if done.Acked > 0 {
		observe(p.cfg.Observer, Event{Op: OpAck, Records: done.Acked})
		p.flow.madeRoom(ctx)
	}
	p.reconcileAfter(p.cfg.ReconcileInterval)
	return nil
}

// refreshLoop refreshes after promotions, one refresh at a time and not more often than configured.
func (p *Promoter[T]) refreshLoop(ctx context.Context, dirty chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-dirty:
		}
		start := time.Now()
		err, again := p.cfg.Refresh(ctx), false
		if ctx.Err() != nil {
			return
		}
		observe(p.cfg.Observer, Event{Op: OpRefresh, Duration: time.Since(start), Err: err})
		if err != nil {
			p.cfg.Logger.Warn("refreshing views failed; trying again", "err", err, "after", p.cfg.RefreshInterval)
			again = true
		} else if p.flow.Signals != nil {
			_ = p.flow.Signals.Send(ctx, SignalRefreshed)
		}
		if sleep(ctx, p.cfg.RefreshInterval) != nil {
			return
		}
		if again {
			poke(dirty)
		}
	}
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
