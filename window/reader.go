package window

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/redis/rueidis"
)

// Reader reads the windows of one name, for a program that observes them and does not know their
// configuration. It has no method that writes. The package comment lists the access rights that it
// needs. This type is concurrency safe.
type Reader struct{ s *Store }

// Open returns a Reader of windows that exist. It creates and changes nothing. It reads what calls
// of [New] have recorded: the last Size, and the last Keep that was not 0. It returns ErrMissing
// for a name that no program has used, and ErrLayout for data in the layout of another version. It
// never closes client.
func Open(ctx context.Context, client rueidis.Client, name string) (*Reader, error) {
	if err := redisx.CheckName(name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	s, err := connect(ctx, client, name, Config{}.withDefaults())
	if err != nil {
		return nil, err
	}
	meta, err := s.server.Read(ctx, "HMGET", s.keys[0], "layout", "seed", "size", "keep").ToArray()
	if isWrongType(err) {
		err = fmt.Errorf("%w: %s", err, s.keys[0]) // as call.lua does
	}
	if err != nil {
		return nil, s.wrap("open", err)
	}
	if len(meta) != 4 {
		return nil, s.wrap("open", fmt.Errorf("unexpected reply: got %d elements, want 4", len(meta)))
	}
	var texts [4]string
	for i := range texts {
		if texts[i], err = meta[i].ToString(); err != nil && !rueidis.IsRedisNil(err) {
			return nil, s.wrap("open", err)
		}
	}
	layout, seed, size, keep := texts[0], texts[1], texts[2], texts[3]
	switch layout {
	case Layout:
	case "":
		return nil, fmt.Errorf("%w: %s: no program has used them, or they have expired", ErrMissing, name)
	default:
		return nil, s.wrap("open", layoutError(layout))
	}
	if seed != "" {
		s.seed.Store(seed)
	}
	s.cfg.Size, s.cfg.Keep = recorded(size), recorded(keep)
	return &Reader{s}, nil
}

// recorded parses a duration of the configuration. Another program may have written anything.
func recorded(text string) time.Duration {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > longest.Milliseconds() {
		return 0
	}
	return time.Duration(n) * time.Millisecond
}

// Name returns the name given to Open.
func (r *Reader) Name() string { return r.s.name }

// Size returns the size of the tumbling windows at the time of Open; 0: there are none.
func (r *Reader) Size() time.Duration { return r.s.cfg.Size }

// Keep returns how far back the sliding window reached at the time of Open; 0: there is none.
func (r *Reader) Keep() time.Duration { return r.s.cfg.Keep }

// Stats does what [Store.Stats] does.
func (r *Reader) Stats(ctx context.Context) (Stats, error) { return r.s.Stats(ctx) }

// Audit does what [Store.Audit] does.
func (r *Reader) Audit(ctx context.Context) (AuditReport, error) { return r.s.Audit(ctx) }

// Windows does what [Store.Windows] does.
func (r *Reader) Windows(ctx context.Context, phase Phase, cursor string, n int) (page []Summary, next string, err error) {
	return r.s.Windows(ctx, phase, cursor, n)
}

// OpenWindows does what [Store.OpenWindows] does.
func (r *Reader) OpenWindows(ctx context.Context, key string, after time.Time, n int) ([]OpenWindow, error) {
	return r.s.OpenWindows(ctx, key, after, n)
}

// ReadOpen does what [Store.ReadOpen] does.
func (r *Reader) ReadOpen(ctx context.Context, w OpenWindow) ([]Event, error) {
	return r.s.ReadOpen(ctx, w)
}

// DeadWindows does what [Store.DeadWindows] does.
func (r *Reader) DeadWindows(ctx context.Context, cursor string, n int) (page []DeadWindow, next string, err error) {
	return r.s.DeadWindows(ctx, cursor, n)
}

// ReadDead does what [Store.ReadDead] does.
func (r *Reader) ReadDead(ctx context.Context, w DeadWindow) ([]Event, error) {
	return r.s.ReadDead(ctx, w)
}

// Late does what [Store.Late] does.
func (r *Reader) Late(ctx context.Context, cursor string, n int) (page []LateEvent, next string, err error) {
	return r.s.Late(ctx, cursor, n)
}

// Count does what [Store.Count] does.
func (r *Reader) Count(ctx context.Context, key string, from, to time.Time) (int64, error) {
	return r.s.Count(ctx, key, from, to)
}

// Range does what [Store.Range] does.
func (r *Reader) Range(ctx context.Context, key string, from, to time.Time) ([]Event, error) {
	return r.s.Range(ctx, key, from, to)
}

// RangePage does what [Store.RangePage] does.
func (r *Reader) RangePage(ctx context.Context, key string, from, to time.Time, cursor string, n int) (page []Event, next string, err error) {
	return r.s.RangePage(ctx, key, from, to, cursor, n)
}

// Last does what [Store.Last] does.
func (r *Reader) Last(ctx context.Context, key string, d time.Duration) ([]Event, error) {
	return r.s.Last(ctx, key, d)
}

// LastCount does what [Store.LastCount] does.
func (r *Reader) LastCount(ctx context.Context, key string, d time.Duration) (int64, error) {
	return r.s.LastCount(ctx, key, d)
}
