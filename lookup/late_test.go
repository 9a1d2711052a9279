package lookup_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/redis/rueidis"
)

// lateLock is a client that ends the context of a refresh when it asks for the lock, and sends that
// command late: after the command that gives the lock back, or when the refresh has not given up.
type lateLock struct {
	rueidis.Client

	stop     context.CancelFunc // nil: commands are sent at once
	released chan struct{}
	once     sync.Once
	sent     chan struct{} // closed when the late command has been run
}

func (l *lateLock) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	words := cmd.Commands()
	if l.stop == nil || !slices.Contains(words, "acquire") {
		if l.stop != nil && slices.Contains(words, "release") {
			defer l.once.Do(func() { close(l.released) })
		}
		return l.Client.Do(ctx, cmd)
	}
	l.stop()
	result := make(chan rueidis.RedisResult, 1)
	go func() {
		defer close(l.sent)
		select {
		case <-l.released:
		case <-time.After(20 * time.Millisecond):
		}
		result <- l.Client.Do(context.WithoutCancel(ctx), cmd)
	}()
	select {
	case r := <-result:
		return r
	case <-ctx.Done():
		return l.Client.Do(ctx, l.B().Ping().Build())
	}
}

// A call for the lock that the server runs after the refresh was cancelled leaves the lock free.
func TestLateCallForTheLock(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		l, name := &lateLock{Client: c}, servertest.Prefix(t)
		table := newTable(t, l, name, lookup.Config[string, int]{Load: numbers(3)})
		refresh(t, table) // the server knows the scripts then
		ctx, cancel := context.WithCancel(t.Context())
		l.released, l.sent, l.stop = make(chan struct{}), make(chan struct{}), cancel
		if _, err := table.Refresh(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
		<-l.sent
		if held, err := c.Do(t.Context(), c.B().Exists().Key("{"+name+"}:lookup:lock").Build()).AsInt64(); err != nil || held != 0 {
			t.Errorf("got the lock held: %v, %v, want it free", held == 1, err)
		}
	})
}

// lateSwap is a client that ends the context of a refresh when it makes its version current, and
// sends that command after the next question which version is current.
type lateSwap struct {
	rueidis.Client

	stop context.CancelFunc
	late []rueidis.Completed // held back
}

func (l *lateSwap) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	words := cmd.Commands()
	isSwap := slices.ContainsFunc(words, func(w string) bool { return strings.HasSuffix(w, ":lookup:changed") })
	if isSwap && l.stop != nil {
		l.late = append(l.late, cmd.Pin())
		l.stop()
		l.stop = nil
		<-ctx.Done()
		return l.Client.Do(ctx, l.B().Ping().Build())
	}
	isAsk := len(words) == 5 // two keys, no argument
	r := l.Client.Do(ctx, cmd)
	if isAsk {
		for _, late := range l.late {
			l.Client.Do(ctx, late)
		}
		l.late = nil
	}
	return r
}

// A swap that the server runs after the refresh was cancelled makes no version current that is
// deleted then.
func TestLateSwap(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		l := &lateSwap{Client: c}
		table := newTable(t, l, servertest.Prefix(t), lookup.Config[string, int]{Load: numbers(3)})
		old := refresh(t, table)
		ctx, cancel := context.WithCancel(t.Context())
		l.stop = cancel
		if _, err := table.Refresh(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
		if err := table.Sync(t.Context()); err != nil {
			t.Error(err)
		}
		if s, err := table.Snapshot(); err != nil || s.Version() != old.Version || s.Len() != 3 {
			t.Errorf("got another version, %v, want the old one", err)
		}
	})
}
