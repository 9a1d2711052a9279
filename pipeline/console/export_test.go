package console

import (
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
