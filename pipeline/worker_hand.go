package pipeline

import (
	"context"
	"sync"

	"github.com/headrace/headrace/queue"
)

// hand bounds what a worker holds over all its batches. Before a lease, room for the largest batch
// is reserved. This type is safe for concurrent use.
type hand struct {
	maxRecords, maxBytes int

	mu       sync.Mutex
	held     InProgress
	reserved InProgress
	freed    chan struct{} // closed and replaced when room is made
}

func newHand(maxRecords, maxBytes int) *hand {
	return &hand{maxRecords: maxRecords, maxBytes: maxBytes, freed: make(chan struct{})}
}

// reserve waits until a batch of that size fits, or until ctx is done.
func (h *hand) reserve(ctx context.Context, records, bytes int) error {
	for {
		h.mu.Lock()
		if h.held.Records+h.reserved.Records+records <= h.maxRecords && h.held.Bytes+h.reserved.Bytes+bytes <= h.maxBytes || h.held.Batches+h.reserved.Batches == 0 {
			h.reserved.Batches++
			h.reserved.Records += records
			h.reserved.Bytes += bytes
			h.mu.Unlock()
			return nil
		}
		freed := h.freed
		h.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// took replaces a reservation by the batch that was leased, if any.
func (h *hand) took(records, bytes int, b *queue.Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reserved.Batches--
	h.reserved.Records -= records
	h.reserved.Bytes -= bytes
	if b != nil {
		h.held.Batches++
		h.held.Records += len(b.Payloads)
		h.held.Bytes += b.Bytes
	}
	h.free()
}

// put removes a batch that is no longer in hand.
func (h *hand) put(b *queue.Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held.Batches--
	h.held.Records -= len(b.Payloads)
	h.held.Bytes -= b.Bytes
	h.free()
}

func (h *hand) free() {
	close(h.freed)
	h.freed = make(chan struct{})
}

func (h *hand) now() InProgress {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held
}
