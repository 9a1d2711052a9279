package queue

import (
	"sync"
	"sync/atomic"
	"time"
)

// pace bounds the bytes of one round trip of a push. A client gives up a connection on which the
// bytes that it has been given are not through in time (10 s by default), and then the outcome of
// all of them is unknown. The bound begins low and follows the speed of the network.
type pace struct {
	bytes atomic.Int64

	mu    sync.Mutex
	lost  int // bytes of the last trip that was given up; 0: none
	since int // trips since
}

const (
	firstTrip = 1 << 20
	leastTrip = 64 << 10
	mostTrip  = 1 << 30 // more than any push that the client can send
	// A trip that was quicker than quickTrip doubles the bound, one that was slower than slowTrip
	// halves it. Between them is the wait for the disk of a durable push, a second.
	quickTrip, slowTrip = 1500 * time.Millisecond, 4 * time.Second
	// forgetLost is the number of trips after which a trip may again be as large as one that was given
	// up: the connection may have broken for another reason.
	forgetLost = 32
)

// limit returns how many bytes the next round trip may have.
func (p *pace) limit() int {
	if n := p.bytes.Load(); n > 0 {
		return int(n)
	}
	return firstTrip
}

// learn adjusts the bound after a round trip of so many bytes. A small one that is slow shows
// nothing about the network.
func (p *pace) learn(bytes int, took time.Duration, lost bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := p.limit()
	if p.since++; p.since > forgetLost {
		p.lost = 0
	}
	next := limit
	switch {
	case lost && bytes > leastTrip:
		next, p.lost, p.since = min(limit, bytes)/4, bytes, 0
	case took > slowTrip && bytes > leastTrip:
		next = min(limit, bytes) / 2
	case !lost && took < quickTrip && bytes > limit/2 && (p.lost == 0 || 2*limit < p.lost):
		next = 2 * limit
	}
	p.bytes.Store(int64(min(max(next, leastTrip), mostTrip)))
}

// trip returns how many of chunks the next round trip takes, at least one, and their bytes.
func (p *pace) trip(chunks [][]string) (n, bytes int) {
	for limit := p.limit(); n < len(chunks); n++ {
		size := 0
		for _, v := range chunks[n] {
			size += len(v)
		}
		if n > 0 && bytes+size > limit {
			break
		}
		bytes += size
	}
	return n, bytes
}
