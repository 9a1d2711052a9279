package lookup

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// Table is a table of reference data: in Redis a version of it that all processes share, in this process a snapshot
// of that version. This type is concurrency safe.
type Table[K comparable, V any] struct {
	client rueidis.Client
	name   string
	cfg    Config[K, V]

	pointer, lock, versions, channel string // keys, see the package comment

	current atomic.Pointer[Snapshot[K, V]]
	checked atomic.Int64 // when Redis last said which version is current, on this process' monotonic clock
	syncing chan struct{}
}

// epoch is where the monotonic clock of checked begins.
var epoch = time.Now()

// New makes a table on the caller's client, which it never closes. It sends nothing.
func New[K comparable, V any](client rueidis.Client, name string, cfg Config[K, V]) (*Table[K, V], error) {
	cfg, err := cfg.withDefaults(name)
	if err != nil {
		return nil, err
	}
	tag := "{" + name + "}:lookup"
	return &Table[K, V]{
		client: client, name: name, cfg: cfg,
		pointer: tag, lock: tag + ":lock", versions: tag + ":v:", channel: tag + ":changed",
		syncing: make(chan struct{}, 1),
	}, nil
}

// Name returns the table's name.
func (t *Table[K, V]) Name() string { return t.name }

// Snapshot returns this process' snapshot. Take it once a batch, so that the batch sees one version throughout. It
// sends nothing and never waits; what keeps the snapshot current is Run, or calls of Sync. [ErrNotLoaded] says that
// there is none yet, [ErrStale] that it may not be trusted.
func (t *Table[K, V]) Snapshot() (*Snapshot[K, V], error) {
	s := t.current.Load()
	if s == nil {
		return nil, ErrNotLoaded
	}
	if t.cfg.Stale == StaleFail {
		if age := time.Since(epoch) - time.Duration(t.checked.Load()); age > t.cfg.MaxAge {
			return nil, fmt.Errorf("%w: version %s was last confirmed %v ago", ErrStale, s.version, age.Round(time.Millisecond))
		}
	}
	return s, nil
}

// GetMany looks up many keys in one snapshot: [Table.Snapshot] and [Snapshot.GetMany] in one. It sends nothing.
func (t *Table[K, V]) GetMany(_ context.Context, keys []K) (Found[V], error) {
	s, err := t.Snapshot()
	if err != nil {
		return Found[V]{}, err
	}
	return s.GetMany(keys), nil
}

// Sync makes the current version this process' snapshot: one round trip where it is already, otherwise it reads the
// version. When it fails the old snapshot stays.
func (t *Table[K, V]) Sync(ctx context.Context) error {
	_, err := t.sync(ctx, nil)
	return err
}

// sync also returns how old the current version is. ready, if not nil, is a version that was read already.
func (t *Table[K, V]) sync(ctx context.Context, ready *Snapshot[K, V]) (age time.Duration, err error) {
	select {
	case t.syncing <- struct{}{}: // one at a time: an older version must not overwrite a newer one
		defer func() { <-t.syncing }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	// A version may expire while it is read, when two newer ones came meanwhile. The second try reads the newest.
	for range 3 {
		asked := time.Since(epoch)
		var p pointer
		if p, age, err = t.ask(ctx); err != nil {
			return 0, err
		}
		if s := t.current.Load(); s == nil || s.version != p.version {
			if s = ready; s == nil || s.version != p.version {
				s, err = t.read(ctx, p)
			}
			if errors.Is(err, ErrIncomplete) {
				continue
			} else if err != nil {
				return 0, err
			}
			t.current.Store(s)
		}
		t.checked.Store(int64(asked))
		return age, nil
	}
	return 0, err
}

// pointer says which version is current.
type pointer struct {
	version string
	entries int
	made    int64 // server time, ms
}

// ask reads the pointer and how old it is by the server's clock.
func (t *Table[K, V]) ask(ctx context.Context) (p pointer, age time.Duration, err error) {
	// A read without a deadline is retried for ever, and a frozen server would keep Run from noticing anything.
	ctx, cancel := context.WithTimeout(ctx, max(t.cfg.MaxAge, time.Second))
	defer cancel()
	r := t.client.DoMulti(ctx,
		t.client.B().Get().Key(t.pointer).Build(),
		t.client.B().Time().Build())
	text, err := r[0].ToString()
	if rueidis.IsRedisNil(err) {
		return p, 0, ErrNotLoaded
	} else if err != nil {
		return p, 0, fmt.Errorf("lookup: %w", err)
	}
	if p, err = parsePointer(text); err != nil {
		return p, 0, err
	}
	now, err := r[1].AsStrSlice()
	if err != nil || len(now) != 2 {
		return p, 0, fmt.Errorf("lookup: TIME: %w", err)
	}
	s, _ := strconv.ParseInt(now[0], 10, 64)
	us, _ := strconv.ParseInt(now[1], 10, 64)
	return p, time.Duration(s*1000+us/1000-p.made) * time.Millisecond, nil
}

func parsePointer(text string) (p pointer, err error) {
	f := strings.Fields(text)
	if len(f) == 3 {
		p.version = f[0]
		var e1, e2 error
		p.entries, e1 = strconv.Atoi(f[1])
		p.made, e2 = strconv.ParseInt(f[2], 10, 64)
		if e1 == nil && e2 == nil {
			return p, nil
		}
	}
	return p, fmt.Errorf("lookup: the pointer is %q, not a version, a count and a time", text)
}

// read reads a whole version, or fails.
func (t *Table[K, V]) read(ctx context.Context, p pointer) (*Snapshot[K, V], error) {
	entries := make(map[K]V, p.entries)
	var cursor uint64
	for p.entries > 0 {
		page, err := t.client.Do(ctx, t.client.B().Hscan().Key(t.versions+p.version).Cursor(cursor).Count(int64(t.cfg.Chunk)).Build()).AsScanEntry()
		if err != nil {
			return nil, fmt.Errorf("lookup: %w", err)
		}
		for i := 0; i+1 < len(page.Elements); i += 2 {
			k, err := t.cfg.Keys.Decode([]byte(page.Elements[i]))
			if err == nil {
				entries[k], err = t.cfg.Values.Decode([]byte(page.Elements[i+1]))
			}
			if err != nil {
				return nil, &EntryError{Key: page.Elements[i], Err: err, kind: ErrDecode}
			}
		}
		if cursor = page.Cursor; cursor == 0 {
			break
		}
	}
	if len(entries) != p.entries {
		return nil, fmt.Errorf("%w: version %s has %d of %d entries", ErrIncomplete, p.version, len(entries), p.entries)
	}
	return &Snapshot[K, V]{version: p.version, entries: entries}, nil
}
