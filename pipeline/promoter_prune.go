package pipeline

import (
	"context"
	"time"
)

// minRetention leaves room for clocks that differ.
const minRetention = time.Hour

// pruner is a table whose ledger can be pruned. *staging.Table is one.
type pruner interface {
	// Prune deletes ledger rows and resolved rejects older than before, and raises the ledger's
	// floor.
	Prune(ctx context.Context, before time.Time) (int, error)
}

// pruneLoop prunes at the start and once an hour.
func (p *Promoter[T]) pruneLoop(ctx context.Context) {
	defer p.pruning.gone("")
	pause := backoff{}
	for ctx.Err() == nil {
		wait := time.Hour
		if err := p.prune(ctx); err == nil {
			p.pruning.succeeded("")
			pause = backoff{}
		} else if ctx.Err() == nil {
			p.pruning.failed("", err)
			wait = pause.next()
		}
		_ = sleep(ctx, wait)
	}
}

// prune deletes what is older than Retention. What is younger than the oldest record in flight
// stays: whether that was promoted must remain known.
func (p *Promoter[T]) prune(ctx context.Context) error {
	start := time.Now()
	st, err := p.flow.Queue.Stats(ctx)
	if err != nil {
		return err
	}
	var n int
	err = p.prunes.within(ctx, "pruning the ledger", func(ctx context.Context) error {
		now := start
		if p.clock != nil { // the ledger is stamped by it
			if now, err = p.clock.Clock(ctx); err != nil {
				return err
			}
		}
		n, err = p.pruner.Prune(ctx, now.Add(-max(p.cfg.Retention, st.OldestAge+minRetention)))
		return err
	})
	p.events.emit(ctx, Event{Op: OpPrune, Batches: n, Duration: time.Since(start), Err: err})
	return err
}
