package window

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/redis/rueidis"
)

// Limits of events.
const (
	// MaxKey is the length of the longest key, in bytes.
	MaxKey = 512
	// MaxData is the length of the longest Event.Data, in bytes. Store larger data elsewhere, and its
	// id here.
	MaxData = 64 << 10
)

// Event is something that happened at a time.
type Event struct {
	// At is when it happened, to the millisecond: from 1970 on. [Store.Add] refuses earlier times.
	At time.Time
	// Data identifies the event: an id, or the whole event. The same data counts once in a window,
	// at its first time.
	Data string
}

// Store holds the windows of one name, for any number of keys. This type is concurrency safe.
type Store struct {
	server *redisx.Server
	name   string
	prefix string
	keys   []string // KEYS of every script
	cfg    Config
	seed   atomic.Value // string

	leases sync.Map // leaseID → *leaseContext: the windows that handlers of Run have
}

// New opens the windows with the given name. It checks the layout of the data and the server's
// eviction policy. It records the configuration in Redis: if another program has recorded other
// values, New logs a warning that names both. It never closes client. A program that only observes
// uses [Open].
func New(ctx context.Context, client rueidis.Client, name string, cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(name); err != nil {
		return nil, err
	}
	s, err := connect(ctx, client, name, cfg)
	if err != nil {
		return nil, err
	}
	if err := s.checkEviction(ctx); err != nil {
		return nil, err
	}
	return s, s.record(ctx)
}

// record records the configuration in Redis.
func (s *Store) record(ctx context.Context) error {
	record := s.cfg.record()
	r, err := s.run(ctx, openScript, true, ms(s.cfg.Keep), string(record))
	v, err := array(r, err, 3)
	if err != nil {
		return s.wrap("open", err)
	}
	ok, err1 := v[0].AsInt64()
	size, err2 := v[1].AsInt64()
	before, err3 := v[2].ToString()
	if err := cmp.Or(err1, err2, err3); err != nil {
		return s.wrap("open", fmt.Errorf("unexpected reply: %w", err))
	}
	if ok == 0 {
		return fmt.Errorf("%w: Config.Size is 0, must be %v until the windows of that size are closed", ErrConfig, time.Duration(size)*time.Millisecond)
	}
	for _, d := range record.Differences(redisx.Record(before)) {
		s.cfg.Logger.WarnContext(ctx, "window: another program has opened the windows with another configuration",
			"window", s.name, "field", "Config."+d.Field, "this", d.This, "other", d.Other)
	}
	return nil
}

// connect returns a store that has not read or recorded anything yet.
func connect(ctx context.Context, client rueidis.Client, name string, cfg Config) (*Store, error) {
	if err := redisx.CheckClient(client); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	s := &Store{name: name, prefix: "{" + name + "}:window:", cfg: cfg}
	for _, k := range []string{"meta", "never", "idle", "due", "leases", "dead", "expiry"} {
		s.keys = append(s.keys, s.prefix+k)
	}
	s.seed.Store(rand.Text())
	var err error
	if s.server, err = redisx.Open(ctx, client, s.prefix+"never"); err != nil {
		return nil, s.wrap("open", err)
	}
	return s, nil
}

// Name returns the name given to New.
func (s *Store) Name() string { return s.name }

func (s *Store) checkEviction(ctx context.Context) error {
	if s.cfg.Eviction == EvictionIgnore {
		return nil
	}
	policy, err := s.server.EvictionPolicy(ctx)
	if err != nil {
		return s.wrap("open", err)
	}
	if policy == "" {
		return nil
	}
	if s.cfg.Eviction == EvictionRefuse {
		return fmt.Errorf("%w: maxmemory-policy is %s, must be noeviction", ErrEviction, policy)
	}
	s.cfg.Logger.WarnContext(ctx, "window: Redis may evict windows when its memory is full: set maxmemory-policy to noeviction",
		"window", s.name, "maxmemory-policy", policy)
	return nil
}

// wrap adds the name and the call to an error.
func (s *Store) wrap(call string, err error) error {
	if errors.Is(err, ErrArgument) {
		return err // it has the name already
	}
	if errors.Is(err, ErrLeaseLost) || errors.Is(err, ErrLayout) {
		return fmt.Errorf("%w: %s: %s", err, s.name, call)
	}
	return fmt.Errorf("window: %s: %s: %w", s.name, call, err)
}

func (s *Store) argument(format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrArgument, s.name, fmt.Sprintf(format, args...))
}

func (s *Store) checkKey(key string) error {
	if key == "" || len(key) > MaxKey {
		return s.argument("key has %d bytes, must be 1 to %d", len(key), MaxKey)
	}
	return nil
}

func (s *Store) tumbling() error {
	if s.cfg.Size == 0 {
		return fmt.Errorf("%w: %s", ErrNoTumbling, s.name)
	}
	return nil
}

func (s *Store) sliding(key string) error {
	if s.cfg.Keep == 0 {
		return fmt.Errorf("%w: %s", ErrNoSliding, s.name)
	}
	return s.checkKey(key)
}
