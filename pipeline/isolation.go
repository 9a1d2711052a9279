package pipeline

import (
	"context"
	"sync"
	"time"
)

// isolationTime bounds how long a suspect keeps the other batches of its process out of the
// caller's code, and how long it waits while none of them leaves. A record that kills its process
// usually does so at once, and code that hangs must not stop the whole worker.
const isolationTime = time.Second

// isolation keeps a suspect, a batch that has crashed before, apart from the other batches of its
// process. If a process dies with several batches in the caller's code, each of them becomes a
// suspect, and one is the cause. Because suspects run alone, another one is blamed only once. The
// zero value is ready to use.
type isolation struct {
	mu      sync.Mutex
	running int           // batches in the caller's code
	closed  time.Time     // until then, only a suspect may enter
	left    chan struct{} // closed when a batch leaves; nil: none waits for that
}

// process isolates the batches of all workers: a record that kills one worker kills them all.
var process isolation

// enter waits until a batch may run the caller's code, and calls waits first if it has to wait. It
// fails only if ctx is done. A batch that has entered must leave.
func (i *isolation) enter(ctx context.Context, suspect bool, waits func()) error {
	var limit time.Time // for a suspect
	for {
		i.mu.Lock()
		now := time.Now()
		if suspect && limit.IsZero() {
			limit = now.Add(isolationTime)
		}
		until := i.closed
		if suspect {
			until = limit
		}
		if suspect && i.running == 0 || !now.Before(until) {
			i.running++
			if suspect {
				i.closed = now.Add(isolationTime)
			}
			i.mu.Unlock()
			return nil
		}
		if suspect && i.closed.Before(limit) {
			i.closed = limit
		}
		if i.left == nil {
			i.left = make(chan struct{})
		}
		left := i.left
		i.mu.Unlock()
		if waits != nil {
			waits()
			waits = nil
		}
		t := time.NewTimer(until.Sub(now))
		select {
		case <-left:
			limit = time.Time{}
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		t.Stop()
	}
}

// leave is called when the caller's code has returned.
func (i *isolation) leave(suspect bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.running--
	if suspect {
		i.closed = time.Time{}
	}
	if i.left != nil {
		close(i.left)
		i.left = nil
	}
}
