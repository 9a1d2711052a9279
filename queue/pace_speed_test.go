package queue

import (
	"strings"
	"testing"
	"time"
)

// At every speed of a network from 200 kB/s on, no round trip takes as long as a client waits. On a
// fast one, a push soon takes a single trip, with a wait for the disk or without.
func TestPaceFollowsTheNetwork(t *testing.T) {
	t.Parallel()
	chunks := make([][]string, 24)
	for i := range chunks {
		chunks[i] = []string{strings.Repeat("x", 1<<20)}
	}
	for _, speed := range []int{200_000, 1_000_000, 10_000_000, 1_000_000_000} {
		for _, disk := range []time.Duration{0, time.Second} {
			var p pace
			trips := 0
			push := func() {
				trips = 0
				for at := 0; at < len(chunks); trips++ {
					n, bytes := p.trip(chunks[at:])
					took := time.Duration(float64(bytes)/float64(speed)*float64(time.Second)) + disk
					if took > 9*time.Second {
						t.Fatalf("at %d bytes/s a trip of %d bytes takes %v", speed, bytes, took)
					}
					p.learn(bytes, took, false)
					at += n
				}
			}
			for range 2 {
				push()
			}
			if speed > 100_000_000 && trips != 1 {
				t.Errorf("at %d bytes/s and %v a push takes %d trips, want 1", speed, disk, trips)
			}
		}
	}
}
