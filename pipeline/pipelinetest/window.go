package pipelinetest

import (
	"context"
	"fmt"
	"sync"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/queue"
)

// Window is a dedup window in memory, without an end. It belongs to a queue, as the window on Redis
// shares the queue's hash slot. It implements pipeline.Deduplicator and is safe for concurrent use.
type Window struct {
	queue *Queue
	mu    sync.Mutex
	place map[string]string // id to the place that holds it
}

// NewWindow returns an empty window for a queue. A queue has one window.
func NewWindow(q *Queue) *Window {
	w := &Window{queue: q, place: map[string]string{}}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.window = w
	return w
}

// Name returns the name of the queue.
func (w *Window) Name() string { return w.queue.Name() }

func place(root string, at int) string { return fmt.Sprintf("%s+%d", root, at) }

// Claim claims ids by place. A batch that does not exist any more claims nothing: dedup.ErrGone.
func (w *Window) Claim(_ context.Context, b dedup.Batch, pos []int32, ids []string) ([]dedup.Verdict, error) {
	w.queue.mu.Lock()
	defer w.queue.mu.Unlock()
	var guarded *held
	for _, h := range w.queue.held {
		if h.batch.Guard == b.Guard {
			guarded = h
		}
	}
	if guarded == nil {
		return nil, dedup.ErrGone
	}
	guarded.batch.Annotated = true
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]dedup.Verdict, len(ids))
	for i, id := range ids {
		here := place(b.Root, b.Offset+int(pos[i]))
		holder, ok := w.place[id]
		if ok && holder != here {
			out[i] = dedup.VerdictDuplicate
			continue
		}
		out[i], w.place[id] = dedup.VerdictFresh, here
	}
	return out, nil
}

// Undo returns how to give claims back.
func (w *Window) Undo(_ context.Context, claims []dedup.Claim) ([][]dedup.Undo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([][]dedup.Undo, len(claims))
	for i, c := range claims {
		if here := place(c.Root, c.Place); w.place[c.ID] == here {
			out[i] = []dedup.Undo{{Key: "{" + w.Name() + "}:dedup:" + c.ID, Old: here}}
		}
	}
	return out, nil
}

func (w *Window) undo(undo []queue.Undo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	prefix := "{" + w.Name() + "}:dedup:"
	for _, u := range undo {
		if id := u.Key[len(prefix):]; w.place[id] == u.Old {
			delete(w.place, id)
		}
	}
}
