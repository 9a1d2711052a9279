package window

import (
	"context"
	"strconv"
	"time"
)

func (s *Store) slide(key string) eventSet {
	return eventSet{kind: "slide", name: key, keep: s.cfg.Keep}
}

// Count counts the events of the key in the sliding window, at from or later and before to. Without
// Config.Keep it returns [ErrNoSliding], as do Range, RangePage, Last and LastCount.
func (s *Store) Count(ctx context.Context, key string, from, to time.Time) (int64, error) {
	if err := s.sliding(key); err != nil {
		return 0, err
	}
	n, _, err := s.count(ctx, s.slide(key), unixMilli(from), unixMilli(to), 0)
	if err != nil {
		return 0, s.wrap("count", err)
	}
	return n, nil
}

// Range returns the events of the key in the sliding window, at from or later and before to, in the
// order of time and data. An event that is there during the whole call is returned once.
// [Store.RangePage] takes less memory.
func (s *Store) Range(ctx context.Context, key string, from, to time.Time) ([]Event, error) {
	if err := s.sliding(key); err != nil {
		return nil, err
	}
	out, err := s.all(ctx, s.slide(key), unixMilli(from), unixMilli(to))
	if err != nil {
		return nil, s.wrap("range", err)
	}
	return toEvents(out), nil
}

// RangePage returns up to n events of a [Store.Range], and the cursor of the next page. The first
// cursor is ""; the last page returns "". A page may have fewer events than n. The cursor is a
// place in time: events that are added or leave meanwhile shift nothing, and the next page may have
// another range.
func (s *Store) RangePage(ctx context.Context, key string, from, to time.Time, cursor string, n int) (page []Event, next string, err error) {
	if err := s.sliding(key); err != nil {
		return nil, "", err
	}
	out, next, err := s.nextPage(ctx, s.slide(key), unixMilli(from), unixMilli(to), cursor, n)
	if err != nil {
		return nil, "", s.wrap("range", err)
	}
	return toEvents(out), next, nil
}

// Last returns the key's events of the last d, by the server's clock. d is at most Config.Keep.
func (s *Store) Last(ctx context.Context, key string, d time.Duration) ([]Event, error) {
	_, now, err := s.last(ctx, key, d)
	if err != nil {
		return nil, err
	}
	out, err := s.all(ctx, s.slide(key), strconv.FormatInt(now-d.Milliseconds()+1, 10), strconv.FormatInt(now+1, 10))
	if err != nil {
		return nil, s.wrap("last", err)
	}
	return toEvents(out), nil
}

// LastCount counts the key's events of the last d, by the server's clock, without reading them.
func (s *Store) LastCount(ctx context.Context, key string, d time.Duration) (int64, error) {
	n, _, err := s.last(ctx, key, d)
	return n, err
}

func (s *Store) last(ctx context.Context, key string, d time.Duration) (n, now int64, err error) {
	if err := s.sliding(key); err != nil {
		return 0, 0, err
	}
	if d < time.Millisecond || d > s.cfg.Keep {
		return 0, 0, s.argument("last %v, must be 1ms to Config.Keep, %v", d, s.cfg.Keep)
	}
	if n, now, err = s.count(ctx, s.slide(key), "0", "0", d); err != nil {
		return 0, 0, s.wrap("last", err)
	}
	return n, now, nil
}
