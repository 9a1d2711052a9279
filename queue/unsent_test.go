package queue_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// A push that found no server has pushed nothing, and its error does not call the outcome unknown.
// Neither does that of a push whose context was done before.
func TestPushThatWasNeverSent(t *testing.T) {
	t.Parallel()
	server := servertest.OwnRedis(t)
	c, ctx := server.Client(t), t.Context()
	plain := openAs(t, c, "plain", queue.Config{})
	bounded := openAs(t, c, "bounded", queue.Config{Push: queue.PushConfig{MaxDepth: 1000}})
	shards, err := queue.NewShards(ctx, c, "sharded", 2, nil, queue.Config{Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	pushes := map[string]func(ctx context.Context) error{
		"push":          func(ctx context.Context) error { return plain.Push(ctx, records(0, 1200)...) },
		"delayed push":  func(ctx context.Context) error { return plain.PushAt(ctx, time.Now(), records(0, 3)...) },
		"bounded push":  func(ctx context.Context) error { return bounded.Push(ctx, records(0, 3)...) },
		"large push":    func(ctx context.Context) error { return bounded.Push(ctx, records(0, 100)...) },
		"bounded delay": func(ctx context.Context) error { return bounded.PushAt(ctx, time.Now(), records(0, 3)...) },
		"push from":     func(ctx context.Context) error { return plain.PushFrom(ctx, "source", "", "1", records(0, 3)...) },
		"sharded push":  func(ctx context.Context) error { return shards.Push(ctx, records(0, 30)...) },
	}
	check := func(what string, err error, want string) {
		t.Helper()
		var one *queue.PushError
		var many *queue.ShardsPushError
		switch {
		case err == nil || !strings.Contains(err.Error(), want):
			t.Errorf("%s: got %v, want %s", what, err, want)
		case errors.As(err, &one) && (one.Unknown > 0 || one.Pushed > 0), errors.As(err, &many) && len(many.Unknown) > 0:
			t.Errorf("%s: got %v, want an error that leaves nothing unknown", what, err)
		}
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	for what, push := range pushes {
		check(what, push(done), "context canceled")
	}
	for _, q := range []*queue.Queue{plain, bounded} {
		if s := books(t, q); s.Depth() != 0 || s.Reserved != 0 {
			t.Errorf("%s: got %+v, want an empty queue", q.Name(), s)
		}
	}
	must(t, server.Kill())
	servertest.Eventually(t, "every connection of the client is known to be broken", func() bool {
		for range 50 { // the client chooses one at random
			if err := c.Do(ctx, c.B().Publish().Channel("x").Message("y").Build()).Error(); err == nil || !strings.Contains(err.Error(), "refused") {
				return false
			}
		}
		return true
	})
	for what, push := range pushes {
		check(what, push(ctx), "connection refused")
	}
}
