package redisx

import (
	"testing"
	"time"
)

// At every speed of a network from 200 kB/s on, no round trip takes as long as a client waits. On a
// fast one, 24 MB soon take a single trip, with a wait for the disk or without.
func TestPaceFollowsTheNetwork(t *testing.T) {
	t.Parallel()
	const total, chunk = 24 << 20, 1 << 20
	for _, speed := range []int{200_000, 1_000_000, 10_000_000, 1_000_000_000} {
		for _, disk := range []time.Duration{0, time.Second} {
			var p Pace
			trips := 0
			for range 2 {
				trips = 0
				for left := total; left > 0; trips++ {
					bytes := min(left, max(p.Limit()/chunk*chunk, min(p.Limit(), chunk)))
					took := time.Duration(float64(bytes)/float64(speed)*float64(time.Second)) + disk
					if took > 9*time.Second {
						t.Fatalf("at %d bytes/s a trip of %d bytes takes %v", speed, bytes, took)
					}
					p.Learn(bytes, took, false)
					left -= bytes
				}
			}
			if speed > 100_000_000 && trips != 1 {
				t.Errorf("at %d bytes/s and %v a push takes %d trips, want 1", speed, disk, trips)
			}
		}
	}
}
