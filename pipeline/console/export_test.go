package console

import (
	"context"
	"time"

	"github.com/headrace/headrace/queue"
)

// Sample puts a sample into the history of the first pipeline, as if the console had run since
// started.
func (h *Handler) Sample(started, at time.Time, s queue.Stats) {
	r := &h.pipes[0].ring
	r.mu.Lock()
	r.started = started
	r.mu.Unlock()
	r.addAt(at, s)
}

// Statement returns a statement of the first pipeline.
func (h *Handler) Statement(name string) string { return h.pipes[0].ledger.statements[name] }

// Forget makes the answers of the first pipeline old: the next page asks the stores.
func (h *Handler) Forget() {
	p := h.pipes[0]
	p.forget()
	p.minutes.expire()
}

// HoldSum makes the ledger of the first pipeline a large one, whose sum is not ready before the
// channel is closed.
func (h *Handler) HoldSum(until <-chan struct{}) {
	h.smallLedger = -1
	p := h.pipes[0]
	read := p.old.read
	p.old.read = func(ctx context.Context) (oldSum, error) {
		select {
		case <-until:
			return read(ctx)
		case <-ctx.Done():
			return oldSum{}, ctx.Err()
		}
	}
}
