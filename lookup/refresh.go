package lookup

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/internal/uid"
)

// lockFor is how long the lock of a dead refresher blocks the others. A live one renews its lock.
const lockFor = 10 * time.Second

// RefreshResult is the outcome of a refresh.
type RefreshResult struct {
	Version string
	Entries int
	Done    bool // false: another refresher did the work, see [Table.Refresh]
}

// Refresh reads the source, writes a new version, reads it back, makes it the current one in one
// step, and lets the old one expire. If it fails, the old version stays, and everything that it
// wrote expires.
//
// Concurrent refreshes, in any processes, do the work once: the second waits for the first and
// returns its version, with Done false. The first may have read the source before the second was
// called. Where that matters, call Refresh again.
func (t *Table[K, V]) Refresh(ctx context.Context) (RefreshResult, error) {
	r, err := t.refresh(ctx)
	return r, named(t.name, err)
}

func (t *Table[K, V]) refresh(ctx context.Context) (RefreshResult, error) {
	if t.cfg.Load == nil {
		return RefreshResult{}, ErrNoLoader
	}
	before, _, err := t.ask(ctx)
	if err != nil && !replaceable(err) {
		return RefreshResult{}, err
	}
	return t.refreshFrom(ctx, before.id)
}

// refreshFrom refreshes the table if its version is still id once the lock is acquired.
func (t *Table[K, V]) refreshFrom(ctx context.Context, id string) (RefreshResult, error) {
	token := uid.New()
	if err := t.acquire(ctx, token); err != nil {
		return RefreshResult{}, err
	}
	// From here on ctx also ends when the lock is lost.
	ctx, lost := context.WithCancelCause(ctx)
	w := &writer[K, V]{t: t, id: uid.New()}
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		t.renew(ctx, token, w, lost)
	}()
	defer func() {
		lost(nil)
		<-renewed
		t.release(ctx, token)
	}()

	now, _, err := t.ask(ctx)
	switch {
	case err != nil && !replaceable(err):
		return RefreshResult{}, err
	case err == nil && now.id != id:
		_, err := t.sync(ctx, nil)
		return RefreshResult{Version: now.id, Entries: now.entries}, err
	}
	s, err := t.write(ctx, w, token, now)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			err = cause
		}
		return RefreshResult{}, err
	}
	_, err = t.sync(ctx, s)
	return RefreshResult{Version: s.version, Entries: len(s.entries), Done: true}, err
}

// replaceable reports whether a refresh mends an error of ask: there is no version, or its
// description is damaged.
func replaceable(err error) bool {
	return errors.Is(err, ErrNotLoaded) || errors.Is(err, ErrIncomplete)
}

// lockCall runs lock.lua, and reports whether the caller holds the lock.
func (t *Table[K, V]) lockCall(ctx context.Context, what, token string) (bool, error) {
	n, err := t.server.Run(ctx, redisx.Call{
		Script: lockScript, Keys: []string{t.lock, t.never}, Args: []string{what, token, strconv.FormatInt(lockFor.Milliseconds(), 10)},
	}).AsInt64()
	if err != nil {
		return false, fmt.Errorf("%s the lock: %w", what, t.wrongType(ctx, err, redisx.KeyType{Key: t.lock, Type: "string"}))
	}
	return n == 1, nil
}

// acquire waits for the lock of a refresh.
func (t *Table[K, V]) acquire(ctx context.Context, token string) error {
	t.releaseOrphans(ctx)
	const first, last = 5 * time.Millisecond, 50 * time.Millisecond
	for pause := first; ; pause = min(2*pause, last) {
		held, err := t.tryAcquire(ctx, token)
		if err != nil {
			t.release(ctx, token) // only the reply may have been lost
			return err
		}
		if held {
			return nil
		}
		if !redisx.Sleep(ctx, pause) {
			return ctx.Err()
		}
	}
}

// replyGrace is how long tryAcquire waits for its reply after its context has ended. The server may
// run the call yet: the release must not come before it.
const replyGrace = 500 * time.Millisecond

// tryAcquire acquires the lock if it is free.
func (t *Table[K, V]) tryAcquire(ctx context.Context, token string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	ctx, cancel := redisx.Outlive(ctx, replyGrace)
	defer cancel()
	return t.lockCall(ctx, "acquire", token)
}

// release gives the lock up if token holds it. If that fails, the next refresh of this table does
// so, or the lock expires.
func (t *Table[K, V]) release(ctx context.Context, token string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, err := t.lockCall(ctx, "release", token)
	t.orphans.Lock()
	defer t.orphans.Unlock()
	if err == nil {
		delete(t.orphans.tokens, token)
		return
	}
	if t.orphans.tokens == nil {
		t.orphans.tokens = make(map[string]time.Time)
	}
	if _, ok := t.orphans.tokens[token]; !ok {
		t.orphans.tokens[token] = time.Now()
	}
}

// releaseOrphans gives up the locks that earlier refreshes of this table could not give up because
// Redis was away: they would hold up every refresh until they expire.
func (t *Table[K, V]) releaseOrphans(ctx context.Context) {
	t.orphans.Lock()
	var tokens []string
	for token, since := range t.orphans.tokens {
		if time.Since(since) > lockFor { // it has expired
			delete(t.orphans.tokens, token)
			continue
		}
		tokens = append(tokens, token)
	}
	t.orphans.Unlock()
	for _, token := range tokens {
		t.release(ctx, token)
	}
}

// renew keeps the lock, and the parts of the version that is being written, until ctx is done. It
// calls lost when the lock is gone.
func (t *Table[K, V]) renew(ctx context.Context, token string, w *writer[K, V], lost context.CancelCauseFunc) {
	tick := time.NewTicker(lockFor / 5)
	defer tick.Stop()
	good := time.Now()
	extended := good
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		held, err := t.lockCall(ctx, "renew", token)
		switch {
		case err == nil && held:
			good = time.Now()
		case err == nil, time.Since(good) > lockFor:
			lost(ErrOvertaken)
			return
		}
		if time.Since(extended) > unfinished/4 && w.extend(ctx) == nil {
			extended = time.Now()
		}
	}
}
