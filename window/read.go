package window

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// Bounds of one script that reads.
const (
	pageEvents = 1000
	pageBytes  = 1 << 20
)

// MaxPage is the largest number of entries in one page.
const MaxPage = 1000

// eventSet is a set of events in Redis; see common.lua.
type eventSet struct {
	kind, name string
	keep       time.Duration // how far back a sliding window reaches, 0 for other sets
}

// entry is one member of a sorted set.
type entry struct {
	at     int64
	member string
}

func compareEntries(a, b entry) int {
	return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.member, b.member))
}

// maxScore bounds a time: another program may have written any score.
const maxScore = 1 << 53

func toEntries(flat []rueidis.RedisMessage) ([]entry, error) {
	out := make([]entry, 0, len(flat)/2)
	for i := 0; i+1 < len(flat); i += 2 {
		score, err := flat[i].AsFloat64()
		if err != nil {
			return nil, err
		}
		member, err := flat[i+1].ToString()
		if err != nil {
			return nil, err
		}
		out = append(out, entry{at: int64(max(-maxScore, min(score, maxScore))), member: member})
	}
	return out, nil
}

func toEvents(entries []entry) []Event {
	out := make([]Event, len(entries))
	for i, e := range entries {
		out[i] = Event{At: time.UnixMilli(e.at).UTC(), Data: e.member}
	}
	return out
}

// all reads a set from one time on and before another one, in the order of time and data. What is
// in the set during the whole call is read once.
func (s *Store) all(ctx context.Context, set eventSet, from, to string) ([]entry, error) {
	var out []entry
	bucket, at, member := int64(0), "", ""
	for bucket >= 0 {
		r, err := s.run(ctx, scanScript, false, set.kind, set.name, from, to, strconv.FormatInt(bucket, 10), at, member,
			strconv.Itoa(pageEvents), strconv.Itoa(pageBytes), ms(set.keep))
		v, err := array(r, err, 2)
		if err != nil {
			return nil, err
		}
		next, err1 := v[0].AsInt64()
		within, err2 := v[1].AsInt64()
		page, err3 := toEntries(v[2:])
		if err := cmp.Or(err1, err2, err3); err != nil {
			return nil, fmt.Errorf("unexpected reply: %w", err)
		}
		out = append(out, page...)
		bucket, at, member = next, "", ""
		if within == 1 && len(page) > 0 {
			last := page[len(page)-1]
			at, member = strconv.FormatInt(last.at, 10), last.member
		}
	}
	slices.SortFunc(out, compareEntries)
	return out, nil
}

// page reads up to n entries after a cursor. more: there are others after them.
func (s *Store) page(ctx context.Context, set eventSet, from, to string, after *entry, n int) (out []entry, more bool, err error) {
	at, member := "", ""
	if after != nil {
		at, member = strconv.FormatInt(after.at, 10), after.member
	}
	r, err := s.run(ctx, mergeScript, false, set.kind, set.name, from, to, at, member, strconv.Itoa(n), strconv.Itoa(pageBytes), ms(set.keep))
	buckets, err := array(r, err, 1)
	if err != nil {
		return nil, false, err
	}
	var horizon *entry // up to it, every bucket has been read
	for _, b := range buckets {
		v, err := b.ToArray()
		if err != nil {
			return nil, false, err
		}
		if len(v) == 0 {
			return nil, false, errors.New("unexpected reply: got 0 elements, want 1 or more")
		}
		goesOn, err := v[0].AsInt64()
		if err != nil {
			return nil, false, err
		}
		entries, err := toEntries(v[1:])
		if err != nil {
			return nil, false, err
		}
		if goesOn == 1 && len(entries) > 0 {
			if last := entries[len(entries)-1]; horizon == nil || compareEntries(last, *horizon) < 0 {
				horizon = &last
			}
		}
		out = append(out, entries...)
	}
	slices.SortFunc(out, compareEntries)
	if horizon != nil {
		more = true
		i, _ := slices.BinarySearchFunc(out, *horizon, compareEntries)
		out = out[:i+1]
	}
	if len(out) > n {
		out, more = out[:n], true
	}
	return out, more, nil
}

// A cursor is the time and the member of the last entry of a page, in a form that callers only hand
// back.
func cursorOf(e entry) string { return strconv.FormatInt(e.at, 10) + " " + e.member }

func (s *Store) parseCursor(cursor string) (*entry, error) {
	if cursor == "" {
		return nil, nil
	}
	at, member, ok := strings.Cut(cursor, " ")
	ms, err := strconv.ParseInt(at, 10, 64)
	if !ok || err != nil {
		return nil, s.argument("invalid cursor %q", cursor)
	}
	return &entry{at: ms, member: member}, nil
}

// nextPage is page by the cursors of callers. next is "" after the last entry.
func (s *Store) nextPage(ctx context.Context, set eventSet, from, to, cursor string, n int) (out []entry, next string, err error) {
	if n < 1 || n > MaxPage {
		return nil, "", s.argument("n is %d, must be 1 to %d", n, MaxPage)
	}
	after, err := s.parseCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	out, more, err := s.page(ctx, set, from, to, after, n)
	if err == nil && more && len(out) > 0 {
		next = cursorOf(out[len(out)-1])
	}
	return out, next, err
}

// count counts the events of a set, of the last d or from one time on and before another, and
// returns the server's time.
func (s *Store) count(ctx context.Context, set eventSet, from, to string, d time.Duration) (n, now int64, err error) {
	r, err := s.run(ctx, countScript, false, set.kind, set.name, from, to, ms(d), ms(set.keep))
	v, err := integers(r, err, 2)
	if err != nil {
		return 0, 0, err
	}
	return v[0], v[1], nil
}

func unixMilli(t time.Time) string { return strconv.FormatInt(redisx.UnixMilli(t), 10) }
