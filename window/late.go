package window

import (
	"context"
	"strconv"
	"strings"
	"time"
)

// LateEvent is an event that was set aside, with the reason.
type LateEvent struct {
	Key string
	Event
	Reason Reason
	// Start and End are those of the tumbling window that the event missed. Both are zero when it
	// missed none: it was too far ahead of the clock, or too old for the sliding window.
	Start, End time.Time
	// Seen is when it arrived, by a clock that never goes back; see [Stats].ClockBehind.
	Seen time.Time

	entry entry
}

// Late returns up to n late events, in order of arrival, and the cursor of the next page. The first
// cursor is ""; the last page returns "". The events stay until [Store.DiscardLate] or the end of
// Config.Retention. An event that arrived late twice, with the same time, data and reason, is
// listed once.
func (s *Store) Late(ctx context.Context, cursor string, n int) (page []LateEvent, next string, err error) {
	entries, next, err := s.nextPage(ctx, eventSet{kind: "late"}, "-inf", "+inf", cursor, n)
	if err != nil {
		return nil, "", s.wrap("late", err)
	}
	for _, e := range entries {
		page = append(page, parseLate(e))
	}
	return page, next, nil
}

// parseLate parses "<reason> <time> <start> <size> <length of the key> <key><data>". An entry that
// another program has written is the data of a late event without key and time.
func parseLate(e entry) LateEvent {
	l := LateEvent{Seen: time.UnixMilli(e.at).UTC(), Reason: ReasonUnknown, Event: Event{Data: e.member}, entry: e}
	f := strings.SplitN(e.member, " ", 6)
	if len(f) != 6 {
		return l
	}
	var n [4]int64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseInt(f[i+1], 10, 64); err != nil {
			return l
		}
	}
	at, start, size, key := n[0], n[1], n[2], n[3]
	if key < 0 || key > int64(len(f[5])) {
		return l
	}
	l.Reason, l.Key = Reason(f[0]), f[5][:key]
	l.Event = Event{At: time.UnixMilli(at).UTC(), Data: f[5][key:]}
	if size > 0 {
		l.Start, l.End = time.UnixMilli(start).UTC(), time.UnixMilli(start+size).UTC()
	}
	return l
}

// DiscardLate deletes late events.
func (s *Store) DiscardLate(ctx context.Context, events ...LateEvent) error {
	for len(events) > 0 {
		some := min(len(events), MaxPage)
		data := make([]Event, some)
		for i, e := range events[:some] {
			data[i] = e.Event
		}
		args := []string{s.buckets(data)}
		for _, e := range events[:some] {
			args = append(args, e.entry.member)
		}
		r, err := s.run(ctx, discardScript, true, args...)
		if err == nil {
			_, err = r.AsInt64()
		}
		if err != nil {
			return s.wrap("discard late", err)
		}
		events = events[some:]
	}
	return nil
}
