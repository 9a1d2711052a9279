package window

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// LateEvent is an event that is in no window, and why.
type LateEvent struct {
	Key string
	Event
	Reason Reason
	// Seen is when it came, by the server's clock.
	Seen time.Time

	member string
}

// MaxLate is how many late events are read or dropped at most in one call.
const MaxLate = 1000

// Late returns the n late events that came first. They stay until [Store.DiscardLate] or the end of Config.Retention. An event that came late twice,
// with the same data and time, is there once.
func (w *Store) Late(ctx context.Context, n int) ([]LateEvent, error) {
	if n < 1 || n > MaxLate {
		return nil, fmt.Errorf("window: %s: late: n is %d: must be 1 to %d", w.name, n, MaxLate)
	}
	zs, err := w.client.Do(ctx, w.client.B().Zrange().Key(w.prefix+"late").Min("0").Max(strconv.Itoa(n-1)).Withscores().Build()).AsZScores()
	if err != nil {
		return nil, fmt.Errorf("window: %s: late: %w", w.name, err)
	}
	out := make([]LateEvent, len(zs))
	for i, z := range zs {
		// reason, time, length of the key, key and data
		f := strings.SplitN(z.Member, " ", 4)
		if len(f) != 4 {
			return nil, fmt.Errorf("window: %s: late: entry %q", w.name, z.Member)
		}
		at, err1 := strconv.ParseInt(f[1], 10, 64)
		n, err2 := strconv.Atoi(f[2])
		if err1 != nil || err2 != nil || n < 0 || n > len(f[3]) {
			return nil, fmt.Errorf("window: %s: late: entry %q", w.name, z.Member)
		}
		out[i] = LateEvent{
			Key: f[3][:n], Event: Event{At: time.UnixMilli(at).UTC(), Data: f[3][n:]}, Reason: Reason(f[0]),
			Seen: time.UnixMilli(int64(z.Score)).UTC(), member: z.Member,
		}
	}
	return out, nil
}

// DiscardLate deletes late events that have been dealt with.
func (w *Store) DiscardLate(ctx context.Context, events ...LateEvent) error {
	if len(events) > MaxLate {
		return fmt.Errorf("window: %s: drop late: %d events: must be 0 to %d", w.name, len(events), MaxLate)
	}
	if len(events) == 0 {
		return nil
	}
	members := make([]string, len(events))
	for i, e := range events {
		members[i] = e.member
	}
	if err := w.client.Do(ctx, w.client.B().Zrem().Key(w.prefix+"late").Member(members...).Build()).Error(); err != nil {
		return fmt.Errorf("window: %s: drop late: %w", w.name, err)
	}
	return nil
}

// State counts what is where.
type Stats struct {
	// Keys have open windows; Due windows wait for a closer, Leased ones are with one.
	Keys, Due, Leased int64
	// Late events wait for somebody to look at them.
	Late int64
}

// State reads the counts in one round trip. It changes nothing.
func (w *Store) Stats(ctx context.Context) (Stats, error) {
	var n [4]int64
	b := w.client.B
	for i, r := range w.client.DoMulti(ctx, b().Zcard().Key(w.prefix+"idle").Build(), b().Zcard().Key(w.prefix+"due").Build(),
		b().Zcard().Key(w.prefix+"leases").Build(), b().Zcard().Key(w.prefix+"late").Build()) {
		var err error
		if n[i], err = r.AsInt64(); err != nil {
			return Stats{}, fmt.Errorf("window: %s: state: %w", w.name, err)
		}
	}
	return Stats{Keys: n[0], Due: n[1], Leased: n[2], Late: n[3]}, nil
}
