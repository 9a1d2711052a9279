package window

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

//go:embed add.lua
var addLua string

//go:embed last.lua
var lastLua string

var (
	// Retryable: an event that is there already is not added again.
	addScript  = rueidis.NewLuaScriptRetryable(addLua)
	lastScript = rueidis.NewLuaScriptRetryable(lastLua)
)

// What one script handles at most, so that it holds the server for a few milliseconds and no longer.
const (
	maxScriptEvents  = 1000
	maxScriptWindows = 100
	page             = 1000
)

// MaxKey is the length of the longest key.
const MaxKey = 512

// Event is something that happened at a time.
type Event struct {
	// At is when it happened, kept to the millisecond.
	At time.Time
	// Data identifies the event: the same data is counted once in a window, at its first time. An id, or the whole event.
	Data string
}

// Windows are the windows of one name, for any number of keys. This type is concurrency safe.
type Store struct {
	client rueidis.Client
	prefix string
	name   string
	cfg    Config
}

// New makes windows. It asks the server nothing. The client stays the caller's.
func New(client rueidis.Client, name string, cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(name); err != nil {
		return nil, err
	}
	return &Store{client: client, name: name, prefix: "{" + name + "}:", cfg: cfg}, nil
}

// Added says what became of the events of one Add. They add up.
type AddResult struct {
	// New were added; Repeated were there already.
	New, Repeated int
	// Late came too late, or are too far ahead, and were put aside with their reason: see [Store.Late].
	Late int
}

// Add adds events of one key. It costs a round trip for every 1,000 events or 100 windows. After an error some of them may have been
// added; adding all of them again is harmless.
func (w *Store) Add(ctx context.Context, key string, events ...Event) (AddResult, error) {
	var sum AddResult
	if err := w.checkKey(key); err != nil {
		return sum, err
	}
	for i, e := range events {
		if ms := e.At.UnixMilli(); ms < 0 || ms >= 1<<47 {
			return sum, fmt.Errorf("window: %s: event %d is at %v: must be 1970 to 6429", w.name, i, e.At)
		}
	}
	// In the order of time, so that no part of one Add can make another one late.
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b Event) int { return a.At.Compare(b.At) })
	for len(events) > 0 {
		n, added, err := w.addSome(ctx, key, events)
		if err != nil {
			return sum, fmt.Errorf("window: %s: add: %w", w.name, err)
		}
		sum.New, sum.Repeated, sum.Late = sum.New+int(added[0]), sum.Repeated+int(added[1]), sum.Late+int(added[2])
		events = events[n:]
	}
	return sum, nil
}

// addSome adds as many of the events as one script may.
func (w *Store) addSome(ctx context.Context, key string, events []Event) (n int, added []int64, err error) {
	keys := []string{w.prefix + "m:" + key, w.prefix + "o:" + key, w.prefix + "idle", w.prefix + "due", w.prefix + "closed", w.prefix + "late", w.prefix + "s:" + key}
	c := w.cfg
	args := []string{key, ms(c.Size), ms(c.Lateness), ms(c.Keep), ms(c.Retention), ms(c.MaxAhead), ""}
	windows, count, start := 0, 0, int64(-1)
	for ; n < len(events) && n < maxScriptEvents; n++ {
		at := events[n].At.UnixMilli()
		s := int64(0)
		if c.Size > 0 {
			s = at - at%c.Size.Milliseconds()
		}
		if s != start {
			if windows == maxScriptWindows {
				break
			}
			windows, start = windows+1, s
			if c.Size > 0 {
				keys = append(keys, w.prefix+"w:"+windowName(s, c.Size.Milliseconds(), key))
			}
			args = append(args, strconv.FormatInt(s, 10), "")
			count = len(args) - 1
		}
		args = append(args, strconv.FormatInt(at, 10), events[n].Data)
		args[count] = strconv.Itoa((len(args) - count) / 2)
	}
	args[6] = strconv.Itoa(windows)
	added, err = addScript.Exec(ctx, w.client, keys, args).AsIntSlice()
	if err == nil && len(added) != 3 {
		err = fmt.Errorf("a reply of %d values, want 3", len(added))
	}
	return n, added, err
}

// windowName is a window's name in every key: start, size, key.
func windowName(start, size int64, key string) string {
	return strconv.FormatInt(start, 10) + " " + strconv.FormatInt(size, 10) + " " + key
}

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func (w *Store) checkKey(key string) error {
	if key == "" || len(key) > MaxKey {
		return fmt.Errorf("window: %s: key has %d bytes: must be 1 to %d", w.name, len(key), MaxKey)
	}
	return nil
}

func (w *Store) sliding(key string) error {
	if w.cfg.Keep == 0 {
		return fmt.Errorf("window: %s: %w", w.name, ErrNoSliding)
	}
	return w.checkKey(key)
}

// Count counts the key's events at from or later and before to, in what the sliding window keeps.
func (w *Store) Count(ctx context.Context, key string, from, to time.Time) (int64, error) {
	if err := w.sliding(key); err != nil {
		return 0, err
	}
	n, err := w.client.Do(ctx, w.client.B().Zcount().Key(w.prefix+"s:"+key).Min(unix(from)).Max("("+unix(to)).Build()).AsInt64()
	if err != nil {
		return 0, fmt.Errorf("window: %s: count: %w", w.name, err)
	}
	return n, nil
}

// Range returns the key's events at from or later and before to, in the order of time, from what the sliding window keeps.
func (w *Store) Range(ctx context.Context, key string, from, to time.Time) ([]Event, error) {
	if err := w.sliding(key); err != nil {
		return nil, err
	}
	events, err := w.rest(ctx, w.prefix+"s:"+key, nil, unix(from), "("+unix(to))
	if err != nil {
		return nil, fmt.Errorf("window: %s: range: %w", w.name, err)
	}
	return events, nil
}

// Last returns the key's events of the last d, by the server's clock. d is at most Config.Keep.
func (w *Store) Last(ctx context.Context, key string, d time.Duration) ([]Event, error) {
	reply, err := w.last(ctx, key, d, page)
	if err != nil {
		return nil, err
	}
	now, err := reply[0].ToString()
	if err == nil {
		var zs []rueidis.ZScore
		if zs, err = reply[1].AsZScores(); err == nil {
			events := toEvents(nil, zs)
			if len(events) == page {
				events, err = w.rest(ctx, w.prefix+"s:"+key, events, "", now)
			}
			if err == nil {
				return events, nil
			}
		}
	}
	return nil, fmt.Errorf("window: %s: last: %w", w.name, err)
}

// LastCount counts the key's events of the last d, by the server's clock, without reading them.
func (w *Store) LastCount(ctx context.Context, key string, d time.Duration) (int64, error) {
	reply, err := w.last(ctx, key, d, 0)
	if err != nil {
		return 0, err
	}
	n, err := reply[1].AsInt64()
	if err != nil {
		return 0, fmt.Errorf("window: %s: last: %w", w.name, err)
	}
	return n, nil
}

func (w *Store) last(ctx context.Context, key string, d time.Duration, n int) ([]rueidis.RedisMessage, error) {
	if err := w.sliding(key); err != nil {
		return nil, err
	}
	if d < time.Millisecond || d > w.cfg.Keep {
		return nil, fmt.Errorf("window: %s: last %v: must be 1ms to Config.Keep, %v", w.name, d, w.cfg.Keep)
	}
	reply, err := lastScript.Exec(ctx, w.client, []string{w.prefix + "s:" + key}, []string{ms(d), strconv.Itoa(n)}).ToArray()
	if err == nil && len(reply) != 2 {
		err = fmt.Errorf("a reply of %d values, want 2", len(reply))
	}
	if err != nil {
		return nil, fmt.Errorf("window: %s: last: %w", w.name, err)
	}
	return reply, nil
}

// rest reads a sorted set page by page, from where events end. Ranks would shift while old events leave; times do not.
func (w *Store) rest(ctx context.Context, key string, events []Event, from, to string) ([]Event, error) {
	for {
		skip := int64(0) // events of the last time that we have already
		if n := len(events); n > 0 {
			from = unix(events[n-1].At)
			for skip < int64(n) && events[n-1-int(skip)].At.Equal(events[n-1].At) {
				skip++
			}
		}
		zs, err := w.client.Do(ctx, w.client.B().Zrangebyscore().Key(key).Min(from).Max(to).Withscores().Limit(skip, page).Build()).AsZScores()
		if err != nil {
			return nil, err
		}
		events = toEvents(events, zs)
		if len(zs) < page {
			return events, nil
		}
	}
}

func toEvents(events []Event, zs []rueidis.ZScore) []Event {
	for _, z := range zs {
		events = append(events, Event{At: time.UnixMilli(int64(z.Score)).UTC(), Data: z.Member})
	}
	return events
}

func unix(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }
