package queue_test

import (
	"cmp"
	"context"
	"fmt"
	"sync"

	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/queue"
)

// ledger plays the durable side: it takes a batch once, as promoted or as void, and counts
// what was promoted.
type ledger struct {
	mu    sync.Mutex
	kind  map[string]queue.Fate // FatePromoted or FateVoid
	regs  map[string]bool       // staged, lost when Postgres crashes
	times map[string]int        // record → times promoted
	calls int                   // of settle
	err   error                 // Postgres is away
}

func newLedger() *ledger {
	return &ledger{kind: map[string]queue.Fate{}, regs: map[string]bool{}, times: map[string]int{}}
}

// storable is the refusal of a column for UUIDs.
func storable(id string) error {
	_, err := uid.Parse(id)
	return err
}

// settle is the callback of the queue.
func (l *ledger) settle(_ context.Context, b *queue.Batch) (queue.Resolution, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if err := cmp.Or(l.err, storable(b.ID), storable(b.Root)); err != nil {
		return queue.Resolution{}, err
	}
	if b.Offset < 0 || b.Offset > 1<<30 {
		return queue.Resolution{}, fmt.Errorf("offset %d is no place", b.Offset)
	}
	if l.kind[b.ID] == queue.FatePromoted {
		return queue.Resolution{Promoted: true}, nil
	}
	l.kind[b.ID] = queue.FateVoid
	return queue.Resolution{}, nil
}

// promote is what a worker or promoter does with a batch that it holds, however late. It answers
// what the ledger has afterwards.
func (l *ledger) promote(b *queue.Batch) queue.Fate {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kind[b.ID] == queue.FateUnknown {
		l.kind[b.ID] = queue.FatePromoted
		for _, p := range b.Payloads {
			l.times[string(p)]++
		}
	}
	return l.kind[b.ID]
}

func (l *ledger) known(_ context.Context, ids []string) ([]queue.BatchFate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	out := make([]queue.BatchFate, len(ids))
	for i, id := range ids {
		if err := storable(id); err != nil {
			return nil, err
		}
		switch {
		case l.kind[id] != queue.FateUnknown:
			out[i].Fate = l.kind[id]
		case l.regs[id]:
			out[i].Fate = queue.FateStaged
		}
	}
	return out, nil
}

// staged is a ledger that has every batch in a registry.
func (l *ledger) staged(ctx context.Context, ids []string) ([]queue.BatchFate, error) {
	fates, err := l.known(ctx, ids)
	for i := range fates {
		fates[i].Fate = queue.FateStaged
	}
	return fates, err
}
