package lookup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/internal/errorlog"
	"github.com/headrace/headrace/internal/redisx"
	"github.com/redis/rueidis"
)

// Table is a table of reference data. Redis holds the version that all processes share, and this
// process holds a snapshot of it. This type is concurrency safe.
type Table[K comparable, V any] struct {
	server *redisx.Server
	name   string
	cfg    Config[K, V]

	current, lock, never, versions, channel string // keys, see the package comment

	snapshot atomic.Pointer[Snapshot[K, V]]
	checked  atomic.Int64 // when Redis last replied which version is current, on this process' monotonic clock
	syncing  chan struct{}
	log      *errorlog.Log

	orphans struct { // locks that could not be given up
		sync.Mutex
		tokens map[string]time.Time
	}
}

// epoch is the zero of the monotonic clock of Table.checked.
var epoch = time.Now()

// New returns a table on the caller's client, which it never closes. It probes the server, but
// reads and writes no data.
func New[K comparable, V any](ctx context.Context, client rueidis.Client, name string, cfg Config[K, V]) (*Table[K, V], error) {
	cfg, err := cfg.withDefaults(name)
	if err != nil {
		return nil, err
	}
	if err := redisx.CheckClient(client); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	prefix := "{" + name + "}:lookup:"
	t := &Table[K, V]{
		name: name, cfg: cfg,
		current: prefix + "current", lock: prefix + "lock", never: prefix + "never", versions: prefix + "v:", channel: prefix + "changed",
		syncing: make(chan struct{}, 1),
		log:     errorlog.New(cfg.Logger, "lookup: ", "table", name),
	}
	if t.server, err = redisx.Open(ctx, client, t.never); err != nil {
		return nil, named(name, err)
	}
	return t, nil
}

// Name returns the table's name.
func (t *Table[K, V]) Name() string { return t.name }

// Snapshot returns this process's snapshot. Take it once per batch, so that the batch uses one
// version throughout. It performs no I/O and never waits; Run, or calls of Sync, keep the snapshot
// current. It returns [ErrNotLoaded] if there is none yet, and [ErrStale] if it is too old; see
// Config.Stale.
func (t *Table[K, V]) Snapshot() (*Snapshot[K, V], error) {
	s := t.snapshot.Load()
	if s == nil {
		return nil, named(t.name, ErrNotLoaded)
	}
	if t.cfg.Stale == StaleFail {
		if age := t.sinceChecked(); age > t.cfg.MaxAge {
			return nil, named(t.name, fmt.Errorf("%w: version %s was last confirmed %v ago", ErrStale, s.version, age.Round(time.Millisecond)))
		}
	}
	return s, nil
}

// sinceChecked returns how long ago Redis was last asked which version is current.
func (t *Table[K, V]) sinceChecked() time.Duration {
	return time.Since(epoch) - time.Duration(t.checked.Load())
}

// GetMany looks up many keys in one snapshot: [Table.Snapshot] and [Snapshot.GetMany] in one call,
// without I/O.
func (t *Table[K, V]) GetMany(_ context.Context, keys []K) (Result[V], error) {
	s, err := t.Snapshot()
	if err != nil {
		return Result[V]{}, err
	}
	return s.GetMany(keys), nil
}

// Sync makes the current version this process's snapshot: one round trip if it already is,
// otherwise it reads the version. If it fails, the old snapshot stays.
func (t *Table[K, V]) Sync(ctx context.Context) error {
	_, err := t.sync(ctx, nil)
	return named(t.name, err)
}

// Ensure gives this process a snapshot before it begins to work: the current version, however old.
// If none can be read whole, Ensure refreshes the table, as [Table.Refresh] does. So where there is
// a version, a program can start while the source is down or Redis is full. [Table.Run] replaces an
// old version; see Config.RefreshInterval.
func (t *Table[K, V]) Ensure(ctx context.Context) error {
	_, err := t.sync(ctx, nil)
	if err != nil && replaceable(err) && t.cfg.Load != nil {
		err = t.refreshOld(ctx)
	}
	return named(t.name, err)
}

// maxReads is how often sync reads a version: one may expire while it is read, when two newer ones
// have replaced it.
const maxReads = 3

// sync also returns the age of the current version. ready, if not nil, is a version that was
// already read.
func (t *Table[K, V]) sync(ctx context.Context, ready *Snapshot[K, V]) (age time.Duration, err error) {
	select {
	case t.syncing <- struct{}{}: // one at a time: an older version must not replace a newer one
		defer func() { <-t.syncing }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for range maxReads {
		asked := time.Since(epoch)
		var v version
		if v, age, err = t.ask(ctx); err != nil {
			return 0, err
		}
		if s := t.snapshot.Load(); s == nil || s.version != v.id {
			if s = ready; s == nil || s.version != v.id {
				s, err = t.read(ctx, v)
			}
			if errors.Is(err, ErrIncomplete) {
				continue
			} else if err != nil {
				return 0, err
			}
			t.snapshot.Store(s)
		}
		t.checked.Store(int64(asked))
		return age, nil
	}
	return 0, err
}
