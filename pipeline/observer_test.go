package pipeline

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// A slow observer holds nothing up. What it misses is counted, and Run delivers the rest.
func TestSlowObserverHoldsNothingUp(t *testing.T) {
	var seen, missed int
	first, goOn := make(chan struct{}), make(chan struct{})
	ev := &events{queue: "orders", program: "w", observer: ObserverFunc(func(ctx context.Context, e Event) {
		if seen++; seen == 1 {
			close(first)
			<-goOn
		}
		missed += e.Missed
		if e.Queue != "orders" || e.Program != "w" || ctx.Err() != nil {
			t.Errorf("event %+v, context %v, want its queue and program, and a live context", e, ctx.Err())
		}
	})}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	stop := ev.start(ctx)
	const sent = 3 * EventBuffer
	ev.emit(ctx, Event{})
	<-first
	for range sent - 1 {
		ev.emit(ctx, Event{})
	}
	close(goOn)
	stop()
	ev.emit(ctx, Event{}) // after the end: inline
	// The events that were dropped last are not reported: no event follows them.
	if ev.missed == 0 && seen+missed != sent+1 || seen < EventBuffer || seen+missed+ev.missed < sent+1 {
		t.Errorf("seen %d, missed %d and %d, want %d in sum", seen, missed, ev.missed, sent+1)
	}
}

// A worker never holds more than MaxRecords and MaxBytes, except for a single batch.
func TestWorkInProgressIsBounded(t *testing.T) {
	h := newHand(100, 1000)
	var blocked atomic.Int64
	reserve := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		err := h.reserve(ctx, 40, 300)
		if err != nil {
			blocked.Add(1)
		}
		return err
	}
	batch := func(records, bytes int) *queue.Batch {
		return &queue.Batch{Payloads: make([][]byte, records), Bytes: bytes}
	}
	if err := errors.Join(reserve(), reserve()); err != nil {
		t.Fatal(err)
	}
	if reserve() == nil {
		t.Error("a third batch of 40 records fits into 100")
	}
	small := batch(5, 10)
	h.took(40, 300, small)
	if err := reserve(); err != nil {
		t.Error("there is room when a batch turns out small")
	}
	h.took(40, 300, nil)
	h.took(40, 300, nil)
	if got := h.now(); got != (InProgress{Batches: 1, Records: 5, Bytes: 10}) {
		t.Errorf("in hand %+v, want one batch of 5 records and 10 bytes", got)
	}
	large := batch(40, 950)
	if err := reserve(); err != nil {
		t.Fatal(err)
	}
	h.took(40, 300, large)
	if reserve() == nil {
		t.Error("a batch of 300 bytes fits in addition to 960 of 1000")
	}
	woken := make(chan error)
	go func() { woken <- h.reserve(t.Context(), 40, 300) }()
	h.put(large)
	if err := <-woken; err != nil {
		t.Error(err)
	}
	h.took(40, 300, nil)
	h.put(small)
	if got := h.now(); got != (InProgress{}) {
		t.Errorf("in hand %+v, want nothing", got)
	}
	if err := h.reserve(t.Context(), 1000, 1); err != nil { // alone, whatever its size
		t.Error(err)
	}
}

// stubQueue has one batch handed off since long ago, or counts with an old record in flight.
type stubQueue struct {
	Queue
	handed []queue.HandedOff
	stats  queue.Stats
}

func (q stubQueue) Name() string                                         { return "orders" }
func (q stubQueue) HandedOff(context.Context) ([]queue.HandedOff, error) { return q.handed, nil }
func (q stubQueue) Stats(context.Context) (queue.Stats, error)           { return q.stats, nil }

type stubTable struct {
	Table[int]
	pruned time.Time
	behind time.Duration // its clock
}

func (*stubTable) BooksSince(context.Context, time.Time) (staging.Books, error) {
	return staging.Books{}, nil
}
func (*stubTable) Fates(_ context.Context, ids []string) ([]staging.Fate, error) {
	out := make([]staging.Fate, len(ids))
	for i := range out {
		out[i] = staging.FateStaged
	}
	return out, nil
}
func (s *stubTable) now() time.Time                           { return time.Now().Add(-s.behind) }
func (s *stubTable) Clock(context.Context) (time.Time, error) { return s.now(), nil }
func (s *stubTable) Prune(_ context.Context, before time.Time) (int, error) {
	s.pruned = before
	return 1, nil
}

// A batch that no promoter promotes is reported as stuck, though everything balances.
func TestBatchWithoutAPromoterIsStuck(t *testing.T) {
	f := Flow[int]{Chain: Decode(atoi), Table: &stubTable{}, Queue: stubQueue{handed: []queue.HandedOff{
		{ID: "young", Since: time.Now()},
		{ID: "old", Since: time.Now().Add(-2 * StuckAfter)},
		{ID: "older", Since: time.Now().Add(-3 * StuckAfter)},
	}}}
	b, err := f.Books(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Stuck(); b.Balanced() != nil || !errors.Is(err, ErrStuck) || len(b.Stalls) != 1 || b.Stalls[0].Batch != "older" {
		t.Errorf("balanced: %v; stuck: %v, want only the oldest batch", b.Balanced(), err)
	}
	f.Queue = stubQueue{handed: []queue.HandedOff{{ID: "young", Since: time.Now()}}}
	if b, err = f.Books(t.Context()); err != nil || b.Stuck() != nil {
		t.Errorf("stuck: %v, %v, want nil for a young batch", b.Stuck(), err)
	}
	// The clock of the queue is another one than that of this program.
	for _, skew := range []time.Duration{-time.Hour, time.Hour} {
		theirs := time.Now().Add(skew)
		for age, stuck := range map[time.Duration]bool{StuckAfter / 2: false, 2 * StuckAfter: true} {
			f.Queue = stubQueue{stats: queue.Stats{At: theirs}, handed: []queue.HandedOff{{ID: "b", Since: theirs.Add(-age)}}}
			if b, err = f.Books(t.Context()); err != nil || (b.Stuck() != nil) != stuck {
				t.Errorf("a clock that differs by %v: a batch of %v: stuck: %v, %v, want stuck: %v", skew, age, b.Stuck(), err, stuck)
			}
		}
	}
}

// Retention never reaches what is in flight.
func TestRetentionSparesWhatIsInFlight(t *testing.T) {
	const keep = 2 * time.Hour
	for age, want := range map[time.Duration]time.Duration{0: keep, 30 * time.Minute: keep, 10 * time.Hour: 11 * time.Hour} {
		table := &stubTable{behind: 5 * time.Hour} // by the clock of this program too much would be pruned
		p, err := NewPromoter(Flow[int]{Chain: Decode(atoi), Table: table, Queue: stubQueue{stats: queue.Stats{OldestAge: age}}}, PromoterConfig{Retention: keep})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := table.now().Sub(table.pruned).Round(time.Minute); got != want {
			t.Errorf("with a record of %v in flight, what is older than %v was pruned, want %v", age, got, want)
		}
	}
	if _, err := NewPromoter(Flow[int]{Chain: Decode(atoi), Table: someTable{}, Queue: named{}}, PromoterConfig{Retention: keep}); !errors.Is(err, ErrConfig) {
		t.Errorf("a table that cannot be pruned: %v, want ErrConfig", err)
	}
}

// silentTable does not answer Prune.
type silentTable struct{ stubTable }

func (*silentTable) Prune(ctx context.Context, _ time.Time) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// A Postgres that does not answer holds retention up for CallTimeout, and not forever.
func TestRetentionLeavesASilentStore(t *testing.T) {
	p, err := NewPromoter(Flow[int]{Chain: Decode(atoi), Table: &silentTable{}, Queue: stubQueue{}},
		PromoterConfig{Retention: minRetention, CallTimeout: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.prune(ctx); !errors.Is(err, errNoAnswer) {
		t.Errorf("pruning: %v, want an error about the missing answer", err)
	}
}
