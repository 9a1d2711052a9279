package queue

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/internal/redisx"
)

// unanswered are calls of the lease script whose reply was lost. Each may have leased a batch that
// no worker knows, or may do so yet.
type unanswered struct {
	any   atomic.Bool // whether there are some: what a lease checks
	mu    sync.Mutex
	until map[string]time.Time // by id of the call: when its lease expires in any case
	next  time.Time            // of the next attempt to give them back
}

// maxUnanswered bounds what is remembered: further ones wait for their leases to expire.
const maxUnanswered = 100

// Intervals between attempts to give batches back. A call that is still on its way to the server
// runs later than the attempt that follows it.
const reclaimInterval = time.Second

func (u *unanswered) add(id string, lease time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.until) >= maxUnanswered {
		return
	}
	if u.until == nil {
		u.until = map[string]time.Time{}
	}
	u.until[id] = time.Now().Add(lease)
	u.next = time.Time{}
	u.any.Store(true)
}

// due returns the calls to look for now.
func (u *unanswered) due() (ids []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	if now.Before(u.next) {
		return nil
	}
	u.next = now.Add(reclaimInterval)
	for id, until := range u.until {
		if now.After(until) {
			delete(u.until, id)
			continue
		}
		ids = append(ids, id)
	}
	u.any.Store(len(u.until) > 0)
	return ids
}

func (u *unanswered) remove(ids []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, id := range ids {
		delete(u.until, id)
	}
	u.any.Store(len(u.until) > 0)
}

// again lets the next attempt come at once.
func (u *unanswered) again() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.next = time.Time{}
}

// reclaim gives back the batches of calls that were not answered. An error is one of a server that
// does not answer: it is that of the lease that would follow.
func (q *Queue) reclaim(ctx context.Context) error {
	if !q.unanswered.any.Load() {
		return nil
	}
	ids := q.unanswered.due()
	if len(ids) == 0 {
		return nil
	}
	found, err := q.run(ctx, reclaimScript, drains, ids...).AsStrSlice()
	switch {
	case err == nil:
		q.unanswered.remove(found)
	case !answered(err) || redisx.NotSent(err):
		q.unanswered.again()
		return err
	}
	return nil
}
