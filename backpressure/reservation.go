package backpressure

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Reservation is room for records that are about to be pushed.
type Reservation struct {
	// Records and Bytes are the requested amounts.
	Records int
	Bytes   int64
	// Deadline is when the reservation expires, by this process's clock. It is measured from before
	// the call, so it is early rather than late. Push before it, or acquire again.
	Deadline time.Time

	gate   *Gate
	id     string
	member string

	mu       sync.Mutex
	released bool
	tried    bool // a call to release it failed, and may have done it
}

func (r *Reservation) request() request {
	return request{member: r.member, records: int64(r.Records), bytes: r.Bytes}
}

// Release ends the reservation: the records have been pushed, or will not be. Calling it twice is
// harmless, also after an error. It returns [ErrExpired] if the reservation had already expired.
func (r *Reservation) Release(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.released {
		return nil
	}
	res, err := r.gate.call(ctx, "release", releaseScript, r.gate.lagOrWorst(ctx, releaseLag), r.request())
	if err != nil {
		r.tried = true
		return err
	}
	r.released = true
	if !res.removed && (!r.tried || !time.Now().Before(r.Deadline)) {
		return fmt.Errorf("%w: %s: of %d records, after %v", ErrExpired, r.gate.name, r.Records, r.gate.cfg.ReservationTTL)
	}
	return nil
}
