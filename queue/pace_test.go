package queue_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// A push that is larger than what the network takes before the client gives up gets through. One
// that was given up leaves few records unknown, and the next one succeeds.
func TestALargePushOverASlowNetwork(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	ctx := t.Context()
	const n, size = 128, 64 << 10
	payloads := make([][]byte, n)
	for i := range payloads {
		payloads[i] = make([]byte, size)
	}
	for what, cfg := range map[string]queue.PushConfig{"push": {}, "bounded push": {MaxDepth: 10_000}, "delayed push": {}} {
		net := &redisxtest.Narrow{Client: c, Most: 1500 << 10}
		q, err := queue.New(ctx, net, servertest.Prefix(t), queue.Config{Push: cfg})
		must(t, err)
		push := q.Push
		if what == "delayed push" {
			push = func(ctx context.Context, p ...[]byte) error { return q.PushAt(ctx, time.Now(), p...) }
		}
		rest, unknown, failures := payloads, 0, 0
		for {
			err := push(ctx, rest...)
			if err == nil {
				break
			}
			var pe *queue.PushError
			if errors.As(err, &pe) {
				rest, unknown = rest[pe.Pushed:], unknown+pe.Unknown
			} else if what != "delayed push" || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%s: got %v, want a timeout", what, err)
			}
			if failures++; failures > 3 {
				t.Fatalf("%s: got %v after %d failures, and %d of %d records are left", what, err, failures, len(rest), n)
			}
		}
		s := books(t, q)
		got := s.Ready + s.Delayed
		if got < n || got > int64(n+unknown) || unknown > n/2 || s.Reserved > int64(failures*n) {
			t.Errorf("%s: got %d records after %d unknown ones and %d reserved, want %d", what, got, unknown, s.Reserved, n)
		}
		net.Most = 1 << 30
		for range 40 {
			must(t, q.Push(ctx, records(0, 70)...)) // more than a script pushes
		}
		for range 4 {
			net.Greatest = 0
			must(t, q.Push(ctx, payloads...))
		}
		if net.Greatest < n*size {
			t.Errorf("%s: on a fast network a round trip has at most %d of %d bytes", what, net.Greatest, n*size)
		}
	}
}

// The first trip of a push that is refused as a whole is known to have failed, and the later ones
// were never sent.
func TestALargePushThatIsRefused(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	ctx := t.Context()
	payloads := make([][]byte, 64)
	for i := range payloads {
		payloads[i] = make([]byte, 128<<10)
	}
	q, err := queue.New(ctx, c, servertest.Prefix(t), queue.Config{Push: queue.PushConfig{MaxDepth: 100}})
	must(t, err)
	must(t, c.Do(ctx, c.B().Set().Key("{"+q.Name()+"}:ready").Value("no list").Build()).Error())
	var pe *queue.PushError
	if err := q.Push(ctx, payloads...); !errors.Is(err, queue.ErrWrongType) || errors.As(err, &pe) {
		t.Errorf("got %v, want only that the key has another type", err)
	}
	must(t, c.Do(ctx, c.B().Del().Key("{"+q.Name()+"}:ready").Build()).Error())
	if s := books(t, q); s.Reserved != 0 {
		t.Errorf("got %d reserved records, want none", s.Reserved)
	}
	ending := &endsAfter{Client: c}
	q, err = queue.New(ctx, ending, q.Name(), queue.Config{Push: queue.PushConfig{MaxDepth: 100}})
	must(t, err)
	ending.ctx, ending.end = context.WithCancel(ctx)
	err = q.Push(ending.ctx, payloads...)
	if !errors.Is(err, context.Canceled) || !errors.As(err, &pe) || pe.Pushed == 0 || pe.Pushed == len(payloads) || pe.Unknown != 0 {
		t.Errorf("got %v, want that the first records are pushed and none is unknown", err)
	}
	if s := books(t, q); s.Reserved != 0 || pe != nil && s.Ready != int64(pe.Pushed) {
		t.Errorf("got %+v, want %d ready records and no reserved one", s, pe.Pushed)
	}
}

// endsAfter is a client that ends a context after the first pipeline.
type endsAfter struct {
	rueidis.Client

	ctx context.Context //nolint:containedctx // the test's
	end func()
}

func (e *endsAfter) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	r := e.Client.DoMulti(ctx, cmds...)
	if e.end != nil {
		e.end()
	}
	return r
}
