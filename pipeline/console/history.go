package console

import (
	"slices"
	"sync"
	"time"

	"github.com/headrace/headrace/queue"
)

const (
	sampleInterval = 10 * time.Second
	historyLength  = time.Hour
	maxSamples     = int(historyLength / sampleInterval)
)

// Sample is the depth of a queue at one time.
type Sample struct {
	At       time.Time `json:"at"`
	Ready    int64     `json:"ready"`
	Delayed  int64     `json:"delayed"`
	InFlight int64     `json:"in_flight"`
	Dead     int64     `json:"dead"`
	Taken    int64     `json:"taken"`
	Acked    int64     `json:"acked"`
}

// Depth is what is not yet settled.
func (s Sample) Depth() int64 { return s.Ready + s.Delayed + s.InFlight }

// ring keeps the samples of the last hour in this process. This type is concurrency safe.
type ring struct {
	started time.Time
	mu      sync.Mutex
	samples []Sample
}

// add takes a sample, unless the last one is younger than the pace.
func (r *ring) add(s queue.Stats) { r.addAt(time.Now(), s) }

func (r *ring) addAt(now time.Time, s queue.Stats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.samples); n > 0 && now.Sub(r.samples[n-1].At) < sampleInterval-sampleInterval/10 {
		return
	}
	r.samples = append(r.samples, Sample{now, s.Ready, s.Delayed, s.InFlight, s.Dead, s.Taken, s.Acked})
	if len(r.samples) > maxSamples+1 {
		r.samples = slices.Delete(r.samples, 0, len(r.samples)-maxSamples-1)
	}
}

// History is what this process has seen of the depth of a queue.
type History struct {
	// Started is when the console started: it knows nothing of the time before.
	Started time.Time `json:"started"`
	Samples []Sample  `json:"samples"`
}

func (r *ring) history(now time.Time) History {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := History{Started: r.started, Samples: []Sample{}}
	for _, s := range r.samples {
		if now.Sub(s.At) <= historyLength {
			h.Samples = append(h.Samples, s)
		}
	}
	return h
}

// parts splits the samples where a line through them would hide something: where samples are
// missing, and where a counter went back because the queue was restored or emptied.
func (h History) parts() (parts [][]Sample, reset []time.Time) {
	for i, s := range h.Samples {
		missing := i > 0 && s.At.Sub(h.Samples[i-1].At) > 3*sampleInterval
		back := i > 0 && (s.Taken < h.Samples[i-1].Taken || s.Acked < h.Samples[i-1].Acked)
		if back {
			reset = append(reset, s.At)
		}
		if i == 0 || missing || back {
			parts = append(parts, nil)
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], s)
	}
	return parts, reset
}
