package console

import (
	"context"
	"sync"
	"time"
)

// readers runs the readings of one store: no more at a time than it has slots, each with a
// deadline, and all of them end with the handler's context.
type readers struct {
	ctx     context.Context
	store   string // "Redis" or "Postgres"
	timeout time.Duration
	slots   chan struct{}
	wg      *sync.WaitGroup
}

// maxReadings bounds the readings of one store that are under way at a time.
const maxReadings = 6

// reading is one question to a store with its last answer. However many pages ask, one call is
// under way at a time, and a new one begins only when the answer is old. An answer that took long
// is kept for longer, so that a reading takes at most a tenth of the time. This type is concurrency
// safe.
type reading[V any] struct {
	in     *readers
	what   string // "the queue"
	maxAge time.Duration
	retry  time.Duration // after a failure; 0: maxAge
	read   func(ctx context.Context) (V, error)
	use    func(V) // called with each new answer; nil: nothing is

	mu      sync.Mutex
	value   V
	at      time.Time     // of value; zero: there is none
	tried   time.Time     // when the last call ended
	took    time.Duration // of the last call; 0 if it failed
	err     error         // of the last call
	running chan struct{} // closed at the end of the call under way; nil: none is
	began   time.Time     // of the call under way
}

// A reading may take one part in share of the time.
const share = 10

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// An answer of up to waits times its maximum age is shown at once, while the next one is read.
const waits = 3

// refresh begins a call if the answer is old. The channel is closed when a page should no longer
// wait: at the end of the call, or now where the last answer is not very old.
func (r *reading[V]) refresh() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	age := max(r.maxAge, (share-1)*r.took)
	if r.err != nil && r.retry > 0 {
		age = r.retry
	}
	known := !r.tried.IsZero() && r.err == nil
	if r.running == nil {
		if !r.tried.IsZero() && time.Since(r.tried) < age || r.in.ctx.Err() != nil {
			return closed
		}
		r.begin()
	}
	if known && time.Since(r.at) < waits*age {
		return closed
	}
	return r.running
}

// begin begins a call.
func (r *reading[V]) begin() {
	done := make(chan struct{})
	r.running, r.began = done, time.Now()
	r.in.wg.Go(func() {
		defer close(done)
		r.call()
	})
}

// call asks the store.
func (r *reading[V]) call() {
	ctx, cancel := context.WithTimeout(r.in.ctx, r.in.timeout)
	defer cancel()
	var v V
	var err error
	var start time.Time
	select {
	case r.in.slots <- struct{}{}:
		start = time.Now()
		v, err = r.read(ctx)
		<-r.in.slots
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil && r.use != nil {
		r.use(v)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tried, r.took, r.err, r.running = time.Now(), 0, err, nil
	if err == nil {
		r.value, r.at, r.took = v, r.tried, time.Since(start)
	}
}

// answer is what a page gets of a reading.
type answer[V any] struct {
	value   V
	ok      bool // value was read at some time
	at      time.Time
	err     error         // of the last call; nil while one is under way
	waiting time.Duration // how long the call under way has had no answer; 0: none is
	what    string
	store   string
}

// get returns the last answer. It does not wait.
func (r *reading[V]) get() answer[V] {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := answer[V]{value: r.value, ok: !r.at.IsZero(), at: r.at, err: r.err, what: r.what, store: r.in.store}
	if r.running != nil {
		a.waiting = time.Since(r.began)
	}
	return a
}

// Warning is a part of a page that is missing or old, and why.
type Warning struct {
	// Part is what is missing or old: "the queue".
	Part string `json:"part"`
	// Reason: "Redis has not answered for 1.5 s".
	Reason string `json:"reason"`
	// ReadAt is when the part that is shown was read; nil: nothing is shown.
	ReadAt *time.Time `json:"read_at,omitempty"`
}

// warning returns what is missing of an answer, nil if it is whole.
func (a answer[V]) warning() *Warning {
	w := &Warning{Part: a.what}
	if a.ok {
		w.ReadAt = &a.at
	}
	switch {
	case a.waiting > 0 && a.stuck():
		w.Reason = a.store + " has not answered for " + duration(a.waiting)
	case a.err != nil:
		w.Reason = oneLine(a.err.Error())
	default:
		return nil
	}
	return w
}

// stuck reports whether a page has waited for the call under way without an answer.
func (a answer[V]) stuck() bool { return !a.ok || a.err != nil || a.waiting > stuckAfter }

// stuckAfter is how long a call may be under way while the last answer is shown without a warning.
const stuckAfter = time.Second

// refresher is a reading of any type.
type refresher interface{ refresh() <-chan struct{} }

// await refreshes readings, all at once, and waits for them until ctx is done.
func await(ctx context.Context, all ...refresher) {
	var done []<-chan struct{}
	for _, r := range all {
		done = append(done, r.refresh())
	}
	for _, d := range done {
		select {
		case <-d:
		case <-ctx.Done():
			return
		}
	}
}

// expire makes the next page ask again.
func (r *reading[V]) expire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tried = time.Time{}
}
