package together_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/window"
)

// The primary dies, and the sentinel makes its replica the primary. Every call of every package
// works again without a restart of the program, a waiting consumer wakes, and nothing that was
// replicated is lost or doubled.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	servertest.EachSentinel(t, func(t *testing.T, s *servertest.Sentinel) {
		ctx, quiet, name := t.Context(), slog.New(slog.DiscardHandler), "failover"
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		q, err := queue.New(ctx, s.Client, name, queue.Config{Logger: quiet})
		must(err)
		bounded, err := queue.New(ctx, s.Client, name, queue.Config{Push: queue.PushConfig{MaxDepth: 1000}, Logger: quiet})
		must(err)
		d, err := dedup.New(ctx, s.Client, name, dedup.Config{ExpectedIDs: 1000, Logger: quiet})
		must(err)
		w, err := window.New(ctx, s.Client, name, window.Config{Size: time.Second, Lateness: -1, Idle: time.Hour, Logger: quiet})
		must(err)
		g, err := backpressure.New(ctx, s.Client, name, backpressure.Config{Records: backpressure.SourcesOf(q), Logger: quiet})
		must(err)
		tab, err := lookup.New(ctx, s.Client, name, lookup.Config[string, string]{
			Load:   lookup.FromMap(func(context.Context) (map[string]string, error) { return map[string]string{"a": "b"}, nil }),
			Logger: quiet,
		})
		must(err)

		must(q.Push(ctx, []byte("1"), []byte("2")))
		held, err := q.TryLease(ctx, queue.LeaseOptions{Records: 1, Duration: time.Hour})
		must(err)
		_, err = d.Mark(ctx, "before")
		must(err)
		at := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
		_, err = w.Add(ctx, "k", window.Event{At: at, Data: "before"})
		must(err)
		rest, err := q.TryLease(ctx, queue.LeaseOptions{})
		must(err)
		_, err = q.Ack(ctx, rest.ID)
		must(err)
		woken := make(chan error, 1)
		go func() {
			wctx, cancel := context.WithTimeout(ctx, 2*time.Minute) // it only detects a hang
			defer cancel()
			var err error
			for wctx.Err() == nil {
				var b *queue.Batch
				if b, err = q.Lease(wctx, queue.LeaseOptions{}); err == nil {
					_, err = q.Ack(wctx, b.ID)
					break
				}
			}
			woken <- err
		}()
		s.KillPrimary(t)
		for what, call := range map[string]func() error{
			"push":          func() error { return q.Push(ctx, []byte("push")) },
			"bounded push":  func() error { return bounded.Push(ctx, []byte("bounded")) },
			"delayed push":  func() error { return q.PushAt(ctx, time.Now(), []byte("delayed")) },
			"stats":         func() error { _, err := q.Stats(ctx); return err },
			"ack":           func() error { _, err := q.Ack(ctx, held.ID); return err },
			"claim":         func() error { _, err := d.Mark(ctx, "after"); return err },
			"seen":          func() error { _, err := d.Seen(ctx, "before"); return err },
			"add":           func() error { _, err := w.Add(ctx, "k", window.Event{At: at, Data: "after"}); return err },
			"refresh":       func() error { _, err := tab.Refresh(ctx); return err },
			"gate":          func() error { r, err := g.TryAcquire(ctx, 1); return errors.Join(err, released(ctx, r)) },
			"window stats":  func() error { _, err := w.Stats(ctx); return err },
			"close windows": func() error { _, err := w.CloseDue(ctx, 1); return err },
		} {
			servertest.Eventually(t, what+" works again", func() bool { return call() == nil })
		}
		must(<-woken)
		seen, err := d.Seen(ctx, "before", "after", "never")
		must(err)
		if !seen[0] || !seen[1] || seen[2] {
			t.Errorf("seen: got %v, want [true true false]", seen)
		}
		added, err := w.Add(ctx, "k", window.Event{At: at, Data: "before"}, window.Event{At: at, Data: "after"})
		if err != nil || added.Repeated != 2 {
			t.Errorf("the events again: got %+v, %v, want 2 repeated", added, err)
		}
		servertest.Eventually(t, "all records are acknowledged", func() bool {
			b, err := q.TryLease(ctx, queue.LeaseOptions{})
			if err == nil {
				_, err = q.Ack(ctx, b.ID)
			}
			return errors.Is(err, queue.ErrEmpty)
		})
		audit, err := q.Audit(ctx)
		must(err)
		if err := audit.Balanced(); err != nil {
			t.Error(err)
		}
		if audit.Stats.Acked < 5 {
			t.Errorf("%d records were acknowledged, want the 2 of before and the 3 of after", audit.Stats.Acked)
		}
	})
}

func released(ctx context.Context, r *backpressure.Reservation) error {
	if r == nil {
		return nil
	}
	return r.Release(ctx)
}
