package window

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strconv"

	"github.com/headrace/headrace/internal/redisx"
)

// Bounds of one script, so that it blocks the server for a few milliseconds only.
const (
	maxScriptEvents = 500
	maxScriptBytes  = 1 << 20
)

// AddResult counts the outcomes of the events of one Add: New + Repeated + Late is their number.
type AddResult struct {
	// New events were added; Repeated ones had been added before.
	New, Repeated int
	// Late events arrived too late, or are too far ahead of the clock. They were set aside with the
	// reason: see [Store.Late].
	Late int
}

// Add adds events of one key. It takes one round trip for every 500 events, 1 MiB or 100 windows,
// and for every 200 windows that it closes. After an error, some of the events may have been added.
// Adding all of them again is harmless.
func (s *Store) Add(ctx context.Context, key string, events ...Event) (AddResult, error) {
	var sum AddResult
	if err := s.checkKey(key); err != nil {
		return sum, err
	}
	for i, e := range events {
		if ms := redisx.UnixMilli(e.At); ms < 0 || ms >= 1<<47 {
			return sum, s.argument("event %d is at %v, must be 1970 to 6429", i, e.At)
		}
		if len(e.Data) > MaxData {
			return sum, s.argument("event %d has %d bytes of data, must be 0 to %d", i, len(e.Data), MaxData)
		}
	}
	// In the order of time, so that no part of one Add can make another part late.
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b Event) int { return a.At.Compare(b.At) })
	for more := len(events) > 0; more; {
		a, err := s.addSome(ctx, key, events)
		for try := 0; errors.Is(err, errSeed) && try < 3; try++ {
			a, err = s.addSome(ctx, key, events)
		}
		if err != nil {
			return sum, s.wrap("add", err)
		}
		sum.New, sum.Repeated, sum.Late = sum.New+a.New, sum.Repeated+a.Repeated, sum.Late+a.Late
		events = events[a.events:]
		more = len(events) > 0 || a.open
	}
	return sum, nil
}

// added is the reply of add.lua.
type added struct {
	AddResult

	events int  // how many events it is about
	open   bool // the watermark has passed more windows than the script closed
}

// addSome adds as many of the events as one script may. Without events it closes the windows that
// the watermark has passed.
func (s *Store) addSome(ctx context.Context, key string, events []Event) (added, error) {
	n, size := 0, 0
	for n < len(events) && n < maxScriptEvents && (n == 0 || size+len(events[n].Data) <= maxScriptBytes) {
		size += len(events[n].Data)
		n++
	}
	events = events[:n]
	c := s.cfg
	args := make([]string, 5, 5+2*n)
	copy(args, []string{key, ms(c.Lateness), ms(c.Keep), ms(c.MaxAhead), s.buckets(events)})
	for _, e := range events {
		args = append(args, strconv.FormatInt(e.At.UnixMilli(), 10), e.Data)
	}
	r, err := s.run(ctx, addScript, false, args...)
	v, err := integers(r, err, 5)
	if err != nil {
		return added{}, err
	}
	return added{AddResult{New: int(v[1]), Repeated: int(v[2]), Late: int(v[3])}, int(v[0]), v[4] == 1}, nil
}

// buckets returns a byte for each event: its bucket in a large set. The seed is secret, so that
// those who choose the data cannot choose the bucket.
func (s *Store) buckets(events []Event) string {
	seed := s.seed.Load().(string)
	out := make([]byte, len(events))
	buf := make([]byte, 0, 256)
	for i, e := range events {
		buf = append(append(buf[:0], seed...), e.Data...)
		out[i] = sha256.Sum256(buf)[0]
	}
	return string(out)
}
