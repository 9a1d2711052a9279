package lookup

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/headrace/headrace/internal/uid"
	"github.com/redis/rueidis"
)

//go:embed swap.lua
var swapLua string

//go:embed unlock.lua
var unlockLua string

var (
	swapScript   = rueidis.NewLuaScript(swapLua)
	unlockScript = rueidis.NewLuaScriptRetryable(unlockLua) // its token makes it harmless twice
)

const (
	// lockFor is how long a refresher that died keeps the others waiting. A living one renews its lock.
	lockFor = 10 * time.Second
	// unfinished is how long a version lives that is not current: long enough to be written, however large it is,
	// because each chunk renews it.
	unfinished = 2 * time.Minute
)

// Refreshed is what a refresh did.
type RefreshResult struct {
	Version string
	Entries int
	Done    bool // false: somebody else did it, see [Table.Refresh]
}

// Refresh reads the source, writes a new version in chunks, checks that it reads back whole, makes it the current one
// everywhere in one step, and lets the old one expire. When it fails, the old version stays and nothing is left that
// does not expire.
//
// Two refreshes at once, in any processes, do the work once: the second waits for the first and returns its version,
// with Done false. The first may have read the source before the second was called; call it again where that matters.
func (t *Table[K, V]) Refresh(ctx context.Context) (RefreshResult, error) {
	if t.cfg.Load == nil {
		return RefreshResult{}, ErrNoLoader
	}
	before, _, err := t.ask(ctx)
	if err != nil && !errors.Is(err, ErrNotLoaded) {
		return RefreshResult{}, err
	}
	return t.refreshFrom(ctx, before.version)
}

// refreshFrom refreshes the table if its version is still this one when the lock is got.
func (t *Table[K, V]) refreshFrom(ctx context.Context, version string) (RefreshResult, error) {
	token := uid.New()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := t.client.Do(ctx, t.client.B().Set().Key(t.lock).Value(token).Nx().Px(lockFor).Build()).Error()
		if err == nil {
			break
		} else if !rueidis.IsRedisNil(err) {
			t.unlock(ctx, token) // only the reply may have been lost
			return RefreshResult{}, fmt.Errorf("lookup: %w", err)
		}
		select {
		case <-ctx.Done():
			return RefreshResult{}, ctx.Err()
		case <-time.After(wait):
		}
	}
	// From here on the context also ends when the lock is lost.
	ctx, lost := context.WithCancelCause(ctx)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		t.renew(ctx, token, lost)
	}()
	defer func() {
		lost(nil)
		<-renewed
		t.unlock(ctx, token)
	}()

	now, _, err := t.ask(ctx)
	switch {
	case err != nil && !errors.Is(err, ErrNotLoaded):
		return RefreshResult{}, err
	case err == nil && now.version != version:
		return RefreshResult{Version: now.version, Entries: now.entries}, t.Sync(ctx)
	}
	s, err := t.write(ctx, token)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			err = cause
		}
		return RefreshResult{}, err
	}
	_, err = t.sync(ctx, s)
	return RefreshResult{Version: s.version, Entries: len(s.entries), Done: true}, err
}

// unlock gives the lock up if it is ours. If that fails, it runs out by itself.
func (t *Table[K, V]) unlock(ctx context.Context, token string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	unlockScript.Exec(ctx, t.client, []string{t.lock}, []string{token, "0"})
}

// renew keeps the lock until ctx is done. lost is called when it cannot.
func (t *Table[K, V]) renew(ctx context.Context, token string, lost context.CancelCauseFunc) {
	tick := time.NewTicker(lockFor / 5)
	defer tick.Stop()
	good := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n, err := unlockScript.Exec(ctx, t.client, []string{t.lock}, []string{token, strconv.FormatInt(lockFor.Milliseconds(), 10)}).AsInt64()
		switch {
		case err == nil && n == 1:
			good = time.Now()
		case err == nil, time.Since(good) > lockFor:
			lost(ErrOvertaken)
			return
		}
	}
}

// write loads the source into a new version, makes it current and returns it as it reads back.
func (t *Table[K, V]) write(ctx context.Context, token string) (s *Snapshot[K, V], err error) {
	p := pointer{version: uid.New()}
	key := t.versions + p.version
	defer func() {
		if err != nil {
			done, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			// A swap whose reply was lost may have made it current: then it must stay. If it cannot be seen whether it
			// did, the version expires by itself, or is current and does not.
			if now, _, err := t.ask(done); errors.Is(err, ErrNotLoaded) || err == nil && now.version != p.version {
				t.client.Do(done, t.client.B().Unlink().Key(key).Build())
			}
		}
	}()

	seen := make(map[K]struct{})
	fields, values := make([]string, 0, t.cfg.Chunk), make([]string, 0, t.cfg.Chunk)
	flush := func() error {
		if len(fields) == 0 {
			return nil
		}
		hset := t.client.B().Hset().Key(key).FieldValue()
		for i, f := range fields {
			hset = hset.FieldValue(f, values[i])
		}
		fields, values = fields[:0], values[:0]
		for _, r := range t.client.DoMulti(ctx, hset.Build(),
			t.client.B().Pexpire().Key(key).Milliseconds(unfinished.Milliseconds()).Build()) {
			if err := r.Error(); err != nil {
				return fmt.Errorf("lookup: %w", err)
			}
		}
		return nil
	}
	err = t.cfg.Load(ctx, func(k K, v V) error {
		kb, err := t.cfg.Keys.Encode(k)
		if err != nil {
			return &EntryError{Key: fmt.Sprint(k), Err: err, kind: ErrEncode}
		}
		if _, twice := seen[k]; twice {
			return fmt.Errorf("%w: %q", ErrDuplicateKey, kb)
		}
		vb, err := t.cfg.Values.Encode(v)
		if err != nil {
			return &EntryError{Key: string(kb), Err: err, kind: ErrEncode}
		}
		seen[k] = struct{}{}
		fields, values = append(fields, string(kb)), append(values, string(vb))
		if len(fields) == t.cfg.Chunk {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	p.entries = len(seen)
	switch {
	case err != nil:
		return nil, err
	case p.entries == 0 && !t.cfg.AllowEmpty:
		return nil, ErrEmpty
	}
	// What does not read back whole must not become current: nobody could load it, and everybody would stay behind.
	if s, err = t.read(ctx, p); err != nil {
		return nil, err
	}
	n, err := swapScript.Exec(ctx, t.client, []string{t.pointer, t.lock, key}, []string{
		token, p.version, strconv.Itoa(p.entries), strconv.FormatInt(t.cfg.Keep.Milliseconds(), 10), t.versions, t.channel,
	}).AsInt64()
	switch {
	case err != nil:
		return nil, fmt.Errorf("lookup: %w", err)
	case n == 0:
		return nil, ErrOvertaken
	}
	return s, nil
}
