package queue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

func TestShards(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		cfg := quick
		cfg.Logger = quiet
		s, err := queue.NewShards(t.Context(), c, servertest.Prefix(t), 3, nil, cfg)
		must(t, err)
		ctx := t.Context()
		_, err = s.TryLease(ctx, queue.LeaseOptions{})
		wantErr(t, err, queue.ErrEmpty)
		must(t, s.Push(ctx, records(0, 90)...))
		seen := map[string]int{}
		from := map[string]int{}
		for i := range 9 {
			b, err := s.TryLease(ctx, queue.LeaseOptions{Records: 10})
			must(t, err)
			from[b.Queue]++
			if i%3 == 2 && len(from) != 3 {
				t.Fatalf("unfair: %v", from)
			}
			for _, p := range b.Payloads {
				seen[string(p)]++
			}
			must(t, s.Extend(ctx, b, time.Minute))
			must(t, s.Handoff(ctx, b))
			if n, err := s.Ack(ctx, b.ID); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		st, err := s.Stats(ctx)
		must(t, err)
		if len(seen) != 90 || st.Acked != 90 || st.Imbalance() != 0 {
			t.Fatalf("%d seen, %+v", len(seen), st)
		}
		// A waiting consumer is woken by a push to any of them.
		for range 6 {
			got := make(chan *queue.Batch, 1)
			go func() {
				b, err := s.Lease(ctx, queue.LeaseOptions{})
				if err != nil {
					t.Error(err)
				}
				got <- b
			}()
			must(t, s.Push(ctx, []byte("x")))
			b := <-got
			must(t, s.Release(ctx, b, queue.ReleaseOptions{}))
			b, err := s.Lease(ctx, queue.LeaseOptions{})
			must(t, err)
			must(t, s.Settle(ctx, b, queue.Resolution{Promoted: true}))
		}
		short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
		defer cancel()
		_, err = s.Lease(short, queue.LeaseOptions{})
		wantErr(t, err, context.DeadlineExceeded)
	})
}

func TestShardsByKey(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	by := func(p []byte) string { return string(p[:1]) }
	s, err := queue.NewShards(t.Context(), c, servertest.Prefix(t), 5, by, queue.Config{Logger: quiet})
	must(t, err)
	for i := range 40 {
		must(t, s.Push(t.Context(), fmt.Appendf(nil, "%c%d", 'a'+i%8, i)))
	}
	home := map[byte]string{}
	for {
		b, err := s.TryLease(t.Context(), queue.LeaseOptions{})
		if errors.Is(err, queue.ErrEmpty) {
			break
		}
		must(t, err)
		for _, p := range b.Payloads {
			if h := home[p[0]]; h != "" && h != b.Queue {
				t.Fatalf("%c is in %s and %s", p[0], h, b.Queue)
			}
			home[p[0]] = b.Queue
		}
	}
	if len(home) != 8 {
		t.Fatal(home)
	}
	_, err = queue.NewShards(t.Context(), c, "x", 0, nil, queue.Config{})
	wantErr(t, err, queue.ErrConfig)
	wantErr(t, s.Push(t.Context()), queue.ErrEmptyPush)
}
