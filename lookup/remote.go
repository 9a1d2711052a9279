package lookup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/internal/errorlog"
	"github.com/headrace/headrace/internal/redisx"
	"github.com/redis/rueidis"
)

// Remote is a table that is too large for every process. Its entries are in Redis, one key each,
// and those in use are also in the client's cache. An entry that is in neither is read from the
// source. Use it like a [Table] without versions: two calls may see different states of an entry.
// This type is concurrency safe.
type Remote[K comparable, V any] struct {
	server *redisx.Server
	name   string
	cfg    RemoteConfig[K, V]
	log    *errorlog.Log

	pace  redisx.Pace // of the writes
	reads redisx.Pace
	mean  atomic.Int64 // bytes of an entry, 0: not known

	mu       sync.Mutex
	fetching map[K]*fetch[K, V] // the keys that a running call of Fetch reads
}

// fetch is one call of Fetch, shared by all callers that miss one of its keys meanwhile.
type fetch[K comparable, V any] struct {
	done  chan struct{}
	found map[K]V // valid after done
	err   error   // valid after done
}

// The first byte of a value in Redis: whether the key exists in the source.
const (
	present = '+'
	absent  = '-'
)

// separator separates the name of the table and the key of an entry.
const separator = ":lookup:"

// NewRemote returns a remote table on the caller's client, which it never closes. It probes the
// server, but reads and writes no data.
func NewRemote[K comparable, V any](ctx context.Context, client rueidis.Client, name string, cfg RemoteConfig[K, V]) (*Remote[K, V], error) {
	cfg, err := cfg.withDefaults(name)
	if err != nil {
		return nil, err
	}
	if err := redisx.CheckClient(client); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	// A key in Redis must belong to one table only: its name ends at the first separator.
	if strings.Index(name+separator, separator) != len(name) {
		return nil, fmt.Errorf("%w: name is %q, must not contain %q or end in %q", ErrConfig, name, separator, ":lookup")
	}
	r := &Remote[K, V]{name: name, cfg: cfg, log: errorlog.New(cfg.Logger, "lookup: ", "table", name), fetching: make(map[K]*fetch[K, V])}
	if r.server, err = redisx.Open(ctx, client, name+":lookup"); err != nil {
		return nil, named(name, err)
	}
	return r, nil
}

// Name returns the table's name.
func (r *Remote[K, V]) Name() string { return r.name }

// key returns the key of an entry. It has no hash tag: a cluster spreads the entries. It returns an
// EntryError if Redis cannot hold the key.
func (r *Remote[K, V]) key(ctx context.Context, k K) (string, error) {
	b, err := encodeKey(r.cfg.Keys, k)
	if err != nil {
		return "", err
	}
	name := r.name + separator + b
	if err := r.server.CheckSize(ctx, len(name)); err != nil {
		if large := (*redisx.SizeError)(nil); errors.As(err, &large) {
			return "", &EntryError{Key: b, Err: err, kind: ErrEncode}
		}
		return "", err
	}
	return name, nil
}

// GetMany looks up many keys and reports which are missing. It takes one round trip, or none if the
// client has cached them all. It fetches the keys that Redis lacks from the source, with one call
// for all of them, and waits for keys that another call is already fetching. If Redis is full or
// read-only, or cannot hold an entry, it returns the entries of the source without storing them.
//
// A key that Redis cannot hold does not fail the call: one that Keys cannot encode, or that is
// larger than the server's limit. The source is asked for it, and without a source it is missing. A
// key that differs from itself (NaN) is always missing.
func (r *Remote[K, V]) GetMany(ctx context.Context, keys []K) (Result[V], error) {
	f, err := r.getMany(ctx, keys)
	return f, named(r.name, err)
}

func (r *Remote[K, V]) getMany(ctx context.Context, keys []K) (Result[V], error) {
	f, unknown, err := r.cached(ctx, keys)
	if err != nil || len(unknown) == 0 {
		return f, err
	}
	var got map[K]V
	if r.cfg.Fetch != nil {
		missed := make([]K, 0, len(unknown))
		for _, i := range unknown {
			if isFindable(keys[i]) {
				missed = append(missed, keys[i])
			}
		}
		if got, err = r.fetch(ctx, missed); err != nil {
			return Result[V]{}, err
		}
	}
	for _, i := range unknown {
		if v, ok := got[keys[i]]; ok {
			f.Values[i] = v
		} else {
			f.Missing = append(f.Missing, i)
		}
	}
	slices.Sort(f.Missing)
	return f, nil
}

// cached reads keys from Redis or the client's cache. unknown has the indexes of those that Redis
// does not have.
func (r *Remote[K, V]) cached(ctx context.Context, keys []K) (f Result[V], unknown []int, err error) {
	f.Values = make([]V, len(keys))
	if len(keys) == 0 {
		return f, nil, nil
	}
	names := make([]string, len(keys))
	for i, k := range keys {
		if names[i], err = r.key(ctx, k); err != nil && !errors.Is(err, ErrEncode) { // one that Redis cannot have gets ""
			return Result[V]{}, nil, err
		}
	}
	unique := slices.Clone(names)
	slices.Sort(unique)
	unique = slices.Compact(unique)
	if unique[0] == "" {
		unique = unique[1:]
	}
	values, err := r.read(ctx, unique)
	if err != nil {
		return Result[V]{}, nil, fmt.Errorf("read entries: %w", err)
	}
	for i, name := range names {
		if name == "" {
			unknown = append(unknown, i)
			continue
		}
		m := values[name]
		text, err := m.ToString()
		switch {
		case rueidis.IsRedisNil(err):
			unknown = append(unknown, i)
			continue
		case err != nil:
			return Result[V]{}, nil, fmt.Errorf("read entry %s: %w", keyText(name), err)
		case text != "" && text[0] == absent:
			f.Missing = append(f.Missing, i)
			continue
		case text == "" || text[0] != present:
			err = errors.New("the value begins with neither + nor -")
		default:
			f.Values[i], err = r.cfg.Values.Decode([]byte(text[1:]))
		}
		if err != nil {
			return Result[V]{}, nil, &EntryError{Key: name, Err: err, kind: ErrDecode}
		}
	}
	return f, unknown, nil
}

// fetch reads keys from the source. Each key is read by one call of Fetch at a time, however many
// callers need it.
func (r *Remote[K, V]) fetch(ctx context.Context, keys []K) (map[K]V, error) {
	all := make(map[K]V, len(keys))
	left := make(map[K]bool, len(keys))
	for _, k := range keys {
		left[k] = true
	}
	for len(left) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		mine, own, others := r.claim(left)
		if len(mine) > 0 {
			r.load(ctx, own, mine)
			if own.err != nil {
				return nil, own.err
			}
			for _, k := range mine {
				if v, ok := own.found[k]; ok {
					all[k] = v
				}
				delete(left, k)
			}
		}
		for k, f := range others {
			select {
			case <-f.done:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if f.err != nil {
				continue // its caller may have given up: the next round fetches the key here
			}
			if v, ok := f.found[k]; ok {
				all[k] = v
			}
			delete(left, k)
		}
	}
	return all, nil
}

// claim registers up to Chunk of the keys as being fetched by this caller, and returns them, their
// fetch, and the fetches of the keys that other callers are reading.
func (r *Remote[K, V]) claim(left map[K]bool) (mine []K, own *fetch[K, V], others map[K]*fetch[K, V]) {
	own = &fetch[K, V]{done: make(chan struct{})}
	others = make(map[K]*fetch[K, V])
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range left {
		if f, ok := r.fetching[k]; ok {
			others[k] = f
		} else if len(mine) < r.cfg.Chunk {
			r.fetching[k] = own
			mine = append(mine, k)
		}
	}
	return mine, own, others
}

// load calls Fetch for keys, and writes to Redis what exists and what does not.
func (r *Remote[K, V]) load(ctx context.Context, f *fetch[K, V], keys []K) {
	defer func() {
		if p := recover(); p != nil {
			f.err = fmt.Errorf("the Fetch function panicked: %v", p)
		}
		r.mu.Lock()
		for _, k := range keys {
			delete(r.fetching, k)
		}
		r.mu.Unlock()
		close(f.done)
	}()
	f.err = errors.New("the Fetch function did not return") // it may end its goroutine
	// Fetch may change the slice that it gets, and the map that it returned.
	found, err := r.cfg.Fetch(ctx, slices.Clone(keys))
	if err != nil {
		f.err = fmt.Errorf("fetch: %w", err)
		return
	}
	entries := make(map[K]*V, len(keys))
	own := make(map[K]V, len(keys))
	for _, k := range keys {
		entries[k] = nil
		if v, ok := found[k]; ok {
			entries[k], own[k] = &v, v
		}
	}
	f.found, f.err = own, nil
	err = r.put(ctx, entries, false)
	// The source has answered. An entry that cannot be stored, or a Redis that is full or read-only,
	// costs the next caller a fetch, not this one its answer.
	if ctx.Err() == nil {
		r.log.Report(ctx, "storing what was fetched", err)
	}
}

// put writes entries; nil means a key that does not exist. Without replace it keeps the entries
// that are there, and leaves out those that cannot be encoded.
func (r *Remote[K, V]) put(ctx context.Context, entries map[K]*V, replace bool) error {
	type entry struct {
		key, value string
		ttl        time.Duration
	}
	encode := func(k K, v *V) (entry, error) {
		name, err := r.key(ctx, k)
		if err != nil {
			return entry{}, err
		}
		e := entry{key: name, value: string(absent), ttl: r.cfg.NegativeTTL}
		if v != nil {
			b, err := r.cfg.Values.Encode(*v)
			if err != nil {
				return entry{}, &EntryError{Key: name, Err: err, kind: ErrEncode}
			}
			e.value, e.ttl = string(present)+string(b), r.cfg.TTL
		}
		if err := r.server.CheckSize(ctx, len(e.value)); err != nil {
			return entry{}, &EntryError{Key: name, Err: err, kind: ErrEncode}
		}
		return e, nil
	}
	all := make([]entry, 0, len(entries))
	var left error // the first entry that was left out
	for k, v := range entries {
		e, err := encode(k, v)
		if err != nil && replace {
			return err
		}
		if err != nil {
			left = cmp.Or(left, err)
			continue
		}
		all = append(all, e)
	}
	size := func(i int) int { return len(all[i].key) + len(all[i].value) }
	err := r.send(ctx, len(all), replace, size, func(i int) rueidis.Completed {
		set := r.server.Client().B().Set().Key(all[i].key).Value(all[i].value)
		if replace {
			return set.Px(all[i].ttl).Build()
		}
		// A fetched value is as old as its query: it must not replace what a Put has written since.
		return set.Nx().Px(all[i].ttl).Build()
	})
	return errors.Join(left, err)
}

// Put writes entries to Redis, and replaces existing ones. A look-up right after it may still
// return an old one from the client's cache, until the server's message about the change has
// arrived.
func (r *Remote[K, V]) Put(ctx context.Context, entries map[K]V) error {
	pointers := make(map[K]*V, len(entries))
	for k, v := range entries {
		pointers[k] = &v
	}
	return named(r.name, r.put(ctx, pointers, true))
}

// Forget removes entries, and forgets that keys are missing: the next look-up reads the source,
// once the client's cache knows, as after [Remote.Put]. A fetch in progress may still write what it
// has already read. A key that Redis cannot hold needs no removal.
func (r *Remote[K, V]) Forget(ctx context.Context, keys ...K) error {
	names := make([]string, 0, len(keys))
	for _, k := range keys {
		name, err := r.key(ctx, k)
		if errors.Is(err, ErrEncode) {
			continue
		}
		if err != nil {
			return named(r.name, err)
		}
		names = append(names, name)
	}
	return named(r.name, r.send(ctx, len(names), true, func(i int) int { return len(names[i]) }, func(i int) rueidis.Completed {
		return r.server.Client().B().Unlink().Key(names[i]).Build()
	}))
}
