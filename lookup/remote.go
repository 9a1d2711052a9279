package lookup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/redis/rueidis"
)

// Remote is a table too large for every process: its entries are in Redis, one key each, those in use also in the
// client's cache, and what is in neither is read from the source. Use it like a [Table] that has no versions: two
// calls may see different states of an entry. This type is concurrency safe.
type Remote[K comparable, V any] struct {
	client rueidis.Client
	name   string
	cfg    RemoteConfig[K, V]

	mu       sync.Mutex
	fetching map[K]*fetch[K, V] // the keys that a call of Fetch is under way for
}

// fetch is one call of Fetch, shared by everybody who misses one of its keys meanwhile.
type fetch[K comparable, V any] struct {
	done  chan struct{}
	found map[K]V // valid after done
	err   error   // valid after done
}

// The first byte of a value in Redis says whether the key exists in the source.
const (
	present = '+'
	absent  = '-'
)

// NewRemote makes a remote table on the caller's client, which it never closes. It sends nothing.
func NewRemote[K comparable, V any](client rueidis.Client, name string, cfg RemoteConfig[K, V]) (*Remote[K, V], error) {
	cfg, err := cfg.withDefaults(name)
	if err != nil {
		return nil, err
	}
	return &Remote[K, V]{client: client, name: name, cfg: cfg, fetching: make(map[K]*fetch[K, V])}, nil
}

// Name returns the table's name.
func (r *Remote[K, V]) Name() string { return r.name }

// key is where an entry is kept. There is no hash tag: a cluster spreads the entries.
func (r *Remote[K, V]) key(k K) (string, error) {
	b, err := r.cfg.Keys.Encode(k)
	if err != nil {
		return "", &EntryError{Key: fmt.Sprint(k), Err: err, kind: ErrEncode}
	}
	return r.name + ":lookup:" + string(b), nil
}

// GetMany looks up many keys in one round trip, or in none where the client has cached them all, and says which are
// missing. What Redis does not have is fetched from the source, one call for all such keys; keys that another call is
// fetching already are waited for. Found.Version is empty.
func (r *Remote[K, V]) GetMany(ctx context.Context, keys []K) (Found[V], error) {
	f := Found[V]{Values: make([]V, len(keys))}
	names := make([]string, len(keys))
	for i, k := range keys {
		var err error
		if names[i], err = r.key(k); err != nil {
			return Found[V]{}, err
		}
	}
	if len(keys) == 0 {
		return f, nil
	}
	unique := slices.Clone(names)
	slices.Sort(unique)
	values, err := rueidis.MGetCache(r.client, ctx, r.cfg.LocalTTL, slices.Compact(unique))
	if err != nil {
		return Found[V]{}, fmt.Errorf("lookup: %w", err)
	}
	var unknown []int
	for i, name := range names {
		m := values[name]
		text, err := m.ToString()
		switch {
		case rueidis.IsRedisNil(err):
			unknown = append(unknown, i)
			continue
		case err != nil:
			return Found[V]{}, fmt.Errorf("lookup: %w", err)
		case text != "" && text[0] == absent:
			f.Missing = append(f.Missing, i)
			continue
		case text == "" || text[0] != present:
			err = errors.New("the value begins with neither + nor -")
		default:
			f.Values[i], err = r.cfg.Values.Decode([]byte(text[1:]))
		}
		if err != nil {
			return Found[V]{}, &EntryError{Key: name, Err: err, kind: ErrDecode}
		}
	}
	if len(unknown) == 0 {
		return f, nil
	}
	if r.cfg.Fetch == nil {
		f.Missing = append(f.Missing, unknown...)
		slices.Sort(f.Missing)
		return f, nil
	}
	missed := make([]K, len(unknown))
	for j, i := range unknown {
		missed[j] = keys[i]
	}
	got, err := r.fetch(ctx, missed)
	if err != nil {
		return Found[V]{}, err
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

// fetch gets keys from the source, each by one call only, however many ask.
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
		var mine []K
		others := make(map[K]*fetch[K, V])
		own := &fetch[K, V]{done: make(chan struct{})}
		r.mu.Lock()
		for k := range left {
			if f, ok := r.fetching[k]; ok {
				others[k] = f
			} else if len(mine) < r.cfg.Chunk {
				r.fetching[k] = own
				mine = append(mine, k)
			}
		}
		r.mu.Unlock()

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
				continue // perhaps only its caller gave up: the next round tries the key again, as ours
			}
			if v, ok := f.found[k]; ok {
				all[k] = v
			}
			delete(left, k)
		}
	}
	return all, nil
}

// load calls Fetch for keys and writes what it found, and what it did not, to Redis.
func (r *Remote[K, V]) load(ctx context.Context, f *fetch[K, V], keys []K) {
	defer func() {
		if p := recover(); p != nil {
			f.err = fmt.Errorf("lookup: Fetch panicked: %v", p)
		}
		r.mu.Lock()
		for _, k := range keys {
			delete(r.fetching, k)
		}
		r.mu.Unlock()
		close(f.done)
	}()
	found, err := r.cfg.Fetch(ctx, keys)
	if err != nil {
		f.err = fmt.Errorf("lookup: fetch: %w", err)
		return
	}
	f.found = found
	entries := make(map[K]*V, len(keys))
	for _, k := range keys {
		entries[k] = nil
		if v, ok := found[k]; ok {
			entries[k] = &v
		}
	}
	f.err = r.put(ctx, entries, false)
}

// put writes entries; nil stands for a key that does not exist.
func (r *Remote[K, V]) put(ctx context.Context, entries map[K]*V, replace bool) error {
	cmds := make(rueidis.Commands, 0, len(entries))
	for k, v := range entries {
		name, err := r.key(k)
		if err != nil {
			return err
		}
		value, ttl := string(absent), r.cfg.NegativeTTL
		if v != nil {
			b, err := r.cfg.Values.Encode(*v)
			if err != nil {
				return &EntryError{Key: name, Err: err, kind: ErrEncode}
			}
			value, ttl = string(present)+string(b), r.cfg.TTL
		}
		set := r.client.B().Set().Key(name).Value(value)
		if replace {
			cmds = append(cmds, set.Px(ttl).Build())
		} else {
			// What was fetched is as old as its query: it must not overwrite what a Put has written since.
			cmds = append(cmds, set.Nx().Px(ttl).Build())
		}
	}
	for _, resp := range r.client.DoMulti(ctx, cmds...) {
		if err := resp.Error(); err != nil && !rueidis.IsRedisNil(err) {
			return fmt.Errorf("lookup: %w", err)
		}
	}
	return nil
}

// Put writes entries to Redis, over what is there.
func (r *Remote[K, V]) Put(ctx context.Context, entries map[K]V) error {
	pointers := make(map[K]*V, len(entries))
	for k, v := range entries {
		pointers[k] = &v
	}
	return r.put(ctx, pointers, true)
}

// Forget drops entries, also known-missing ones: the next look-up asks the source. A fetch that is under way may still
// write what it read before.
func (r *Remote[K, V]) Forget(ctx context.Context, keys ...K) error {
	cmds := make(rueidis.Commands, 0, len(keys))
	for _, k := range keys {
		name, err := r.key(k)
		if err != nil {
			return err
		}
		cmds = append(cmds, r.client.B().Unlink().Key(name).Build())
	}
	for _, resp := range r.client.DoMulti(ctx, cmds...) {
		if err := resp.Error(); err != nil {
			return fmt.Errorf("lookup: %w", err)
		}
	}
	return nil
}
