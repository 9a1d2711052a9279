package redisx

import (
	"sync"
	"sync/atomic"
	"time"
)

// Pace bounds the bytes that a round trip sends. A client gives up a connection on which the bytes
// that it has been given are not through in time (10 s by default), and then the outcome of all of
// them is unknown. The bound begins low and follows the speed of the network. The zero value is
// ready. This type is concurrency safe.
type Pace struct {
	bytes atomic.Int64

	mu    sync.Mutex
	lost  int // bytes of the last trip that was given up; 0: none
	since int // trips since
}

const (
	firstTrip = 1 << 20
	leastTrip = 64 << 10
	mostTrip  = 1 << 30 // more than a client can send
	// A trip that was quicker than quickTrip doubles the bound, one that was slower than slowTrip
	// halves it. Between them is the wait for the disk of a durable write, a second.
	quickTrip, slowTrip = 1500 * time.Millisecond, 4 * time.Second
	// forgetLost is the number of trips after which a trip may again be as large as one that was given
	// up: the connection may have broken for another reason.
	forgetLost = 32
)

// Limit returns how many bytes the next round trip may have.
func (p *Pace) Limit() int {
	if n := p.bytes.Load(); n > 0 {
		return int(n)
	}
	return firstTrip
}

// Learn adjusts the bound after a round trip of so many bytes. A small one that is slow shows
// nothing about the network.
func (p *Pace) Learn(bytes int, took time.Duration, lost bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := p.Limit()
	if p.since++; p.since > forgetLost {
		p.lost = 0
	}
	next := limit
	switch {
	case lost && bytes > leastTrip:
		next, p.lost, p.since = min(limit, bytes)/4, bytes, 0
	case took > slowTrip && bytes > leastTrip:
		next = min(limit, bytes) / 2
	case !lost && took < quickTrip && bytes > limit/2 && (p.lost == 0 || 2*limit <= p.lost/2):
		next = 2 * limit
	}
	p.bytes.Store(int64(min(max(next, leastTrip), mostTrip)))
}
