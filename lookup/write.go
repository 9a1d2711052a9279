package lookup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/redis/rueidis"
)

const (
	// unfinished is the time to live of a version that is being written. It is renewed until the
	// version is current.
	unfinished = 2 * time.Minute
	// maxPartBytes ends a part before it has Config.Chunk entries.
	maxPartBytes = 1 << 20
	// maxParts bounds the script that makes a version current, which names all its parts. From
	// growFrom parts on, a part has largeChunk entries or more.
	maxParts, growFrom, largeChunk = 2000, 1000, 5000
	// stagger is the time between the expiry of two parts of an old version, for every 1,000 entries
	// of a part: the server frees them one by one.
	stagger = 2 * time.Millisecond
	// perWrite is the number of entries that one script writes.
	perWrite = 2500
	// keysPerTrip is the number of keys that are renewed or deleted in one round trip.
	keysPerTrip = 100
)

// writer writes one version, part by part.
type writer[K comparable, V any] struct {
	t     *Table[K, V]
	id    string
	seen  map[K]struct{}
	pairs []string // fields and values of the next part
	bytes int
	parts atomic.Int64 // written, or about to be
}

// put adds an entry.
func (w *writer[K, V]) put(ctx context.Context, k K, v V) error {
	key, err := encodeKey(w.t.cfg.Keys, k)
	if err != nil {
		return err
	}
	if _, twice := w.seen[k]; twice {
		return fmt.Errorf("%w: %s", ErrDuplicateKey, keyText(key))
	}
	b, err := w.t.cfg.Values.Encode(v)
	if err != nil {
		return &EntryError{Key: key, Err: err, kind: ErrEncode}
	}
	value := string(b)
	for _, text := range []string{key, value} {
		if err := w.t.server.CheckSize(ctx, len(text)); err != nil {
			return &EntryError{Key: key, Err: err, kind: ErrEncode}
		}
	}
	w.seen[k] = struct{}{}
	w.pairs = append(w.pairs, key, value)
	w.bytes += len(key) + len(value)
	if len(w.pairs) == 2*w.chunk() || w.bytes >= maxPartBytes {
		return w.flush(ctx)
	}
	return nil
}

// chunk is the number of entries of the next part.
func (w *writer[K, V]) chunk() int {
	if w.parts.Load() >= growFrom {
		return max(w.t.cfg.Chunk, largeChunk)
	}
	return w.t.cfg.Chunk
}

// flush writes the next part.
func (w *writer[K, V]) flush(ctx context.Context) error {
	if len(w.pairs) == 0 {
		return nil
	}
	part := int(w.parts.Load())
	if part == maxParts {
		return fmt.Errorf("%w: the table has more than %d parts of Config.Chunk = %d entries or 1 MiB, must have fewer: raise Config.Chunk, or use a Remote if the values are long",
			ErrConfig, maxParts, w.t.cfg.Chunk)
	}
	w.parts.Add(1)
	ttl := strconv.FormatInt(unfinished.Milliseconds(), 10)
	key := redisx.KeyType{Key: w.t.key(w.id, part), Type: "hash"}
	for pairs := range slices.Chunk(w.pairs, 2*perWrite) {
		args := append([]string{ttl}, pairs...)
		err := w.t.server.Run(ctx, redisx.Call{Script: writeScript, Keys: []string{key.Key, w.t.never}, Args: args}).Error()
		if err != nil && !rueidis.IsRedisNil(err) {
			return fmt.Errorf("write version %s: %w", w.id, w.t.wrongType(ctx, err, key))
		}
	}
	w.pairs, w.bytes = w.pairs[:0], 0
	return nil
}

// extend renews the time to live of the parts written so far.
func (w *writer[K, V]) extend(ctx context.Context) error {
	return w.each(ctx, func(key string) rueidis.Completed {
		return w.t.server.Client().B().Pexpire().Key(key).Milliseconds(unfinished.Milliseconds()).Build()
	})
}

// discard deletes the parts written so far. What it cannot delete expires.
func (w *writer[K, V]) discard(ctx context.Context) error {
	return w.each(ctx, func(key string) rueidis.Completed {
		return w.t.server.Client().B().Unlink().Key(key).Build()
	})
}

// each runs one command for each part written so far.
func (w *writer[K, V]) each(ctx context.Context, cmd func(key string) rueidis.Completed) error {
	var errs []error
	for keys := range slices.Chunk(w.t.keys(w.id, int(w.parts.Load())), keysPerTrip) {
		cmds := make(rueidis.Commands, len(keys))
		for i, key := range keys {
			cmds[i] = cmd(key)
		}
		for _, r := range w.t.server.Client().DoMulti(ctx, cmds...) {
			errs = append(errs, r.Error())
		}
	}
	return errors.Join(errs...)
}

// errLoadEnded is the error of a put that comes too late.
var errLoadEnded = errors.New("lookup: the Load function has returned already")

// load calls Load. Its panic is an error, with the stack. So is an error of put that it ignores:
// the version would lack an entry.
func (t *Table[K, V]) load(ctx context.Context, w *writer[K, V]) (err error) {
	var mu sync.Mutex
	var failed error // the first error of put
	put := func(k K, v V) error {
		mu.Lock()
		defer mu.Unlock()
		if failed != nil {
			return failed
		}
		failed = w.put(ctx, k, v)
		return failed
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the Load function panicked: %v\n%s", p, debug.Stack())
		}
		mu.Lock()
		defer mu.Unlock()
		err = cmp.Or(err, failed)
		failed = cmp.Or(failed, errLoadEnded)
	}()
	return t.cfg.Load(ctx, put)
}

// write loads the source into a new version, makes it current in place of old, and returns it as it
// reads back.
func (t *Table[K, V]) write(ctx context.Context, w *writer[K, V], token string, old version) (s *Snapshot[K, V], err error) {
	defer func() {
		if err != nil {
			done, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			// The reply of a swap may have been lost: a version that has become current must stay. The
			// server may even run the swap now, so it must not find the lock any more. If Redis cannot be
			// asked, the version either expires, or is current and does not.
			if _, err := t.lockCall(done, "release", token); err != nil {
				return
			}
			if now, _, err := t.ask(done); err == nil && now.id != w.id || err != nil && replaceable(err) {
				_ = w.discard(done)
			}
		}
	}()
	w.seen = make(map[K]struct{})
	if err = t.load(ctx, w); err != nil {
		return nil, err
	}
	if err = w.flush(ctx); err != nil {
		return nil, err
	}
	v := version{id: w.id, entries: len(w.seen), parts: int(w.parts.Load())}
	if v.entries == 0 && !t.cfg.AllowEmpty {
		return nil, ErrEmpty
	}
	// A version that does not read back whole must not become current: no process could load it.
	if s, err = t.read(ctx, v); err != nil {
		return nil, err
	}
	if err := t.swap(ctx, token, old, v); err != nil {
		return nil, err
	}
	if old.damaged || old.text == "" {
		// Without the right to scan, the first refresh of every table would warn of what is not there.
		if err := t.sweep(ctx, v.id); err != nil && (old.damaged || !redisx.NoPermission(err)) {
			t.cfg.Logger.WarnContext(ctx, "lookup: parts of a lost version may stay", "table", t.name, "keys", t.versions+"*", "error", err)
		}
	}
	return s, nil
}

// stagger is the time between the expiry of two parts of a version.
func (v version) stagger() time.Duration {
	return stagger * time.Duration(1+v.entries/max(v.parts, 1)/1000)
}

// swap makes a version current.
func (t *Table[K, V]) swap(ctx context.Context, token string, old, v version) error {
	keys := append([]string{t.current, t.lock, t.never}, t.keys(v.id, v.parts)...)
	keys = append(keys, t.keys(old.id, old.parts)...)
	n, err := t.server.Run(ctx, redisx.Call{Script: swapScript, Keys: keys, Args: []string{
		token, old.text, v.describe(), strconv.Itoa(v.entries), strconv.Itoa(v.parts),
		strconv.FormatInt(t.cfg.Keep.Milliseconds(), 10), strconv.FormatInt(old.stagger().Milliseconds(), 10), t.channel, v.id,
	}}).AsInt64()
	switch {
	case err != nil:
		types := []redisx.KeyType{{Key: t.lock, Type: "string"}, {Key: t.current, Type: "string"}}
		for _, key := range t.keys(v.id, v.parts) {
			types = append(types, redisx.KeyType{Key: key, Type: "hash"})
		}
		return fmt.Errorf("make version %s current: %w", v.id, t.wrongType(ctx, err, types...))
	case n == 0:
		return ErrOvertaken
	}
	return nil
}
