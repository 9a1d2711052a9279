package together_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/window"
)

// A server that refuses writes until an operator acts: its disk fails (MISCONF), or too few
// replicas follow (NOREPLICAS). Calls wait for a while, and succeed after that without a restart.
// What was refused has changed nothing.
func TestServerThatRefusesWrites(t *testing.T) {
	t.Parallel()
	for code, fault := range map[string]struct{ begin, end [][]string }{
		"MISCONF": {
			begin: [][]string{{"CONFIG", "SET", "save", "3600 1"}, {"CONFIG", "SET", "dir", "/proc"}, {"BGSAVE"}},
			end:   [][]string{{"CONFIG", "SET", "dir", "/tmp"}, {"CONFIG", "SET", "save", ""}},
		},
		"NOREPLICAS": {
			begin: [][]string{{"CONFIG", "SET", "min-replicas-to-write", "1"}},
			end:   [][]string{{"CONFIG", "SET", "min-replicas-to-write", "0"}},
		},
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			own := servertest.OwnRedis(t, "--enable-protected-configs", "yes", "--appendonly", "no")
			c, admin := own.Client(t), own.Client(t)
			run := func(commands [][]string) {
				for _, args := range commands {
					if err := admin.Do(t.Context(), admin.B().Arbitrary(args...).Build()).Error(); err != nil {
						t.Fatalf("%v: %v", args, err)
					}
				}
			}
			calls, check := openAll(t, c)
			run(fault.begin)
			servertest.Eventually(t, "the server refuses writes", func() bool {
				err := admin.Do(t.Context(), admin.B().Set().Key("x").Value("y").Build()).Error()
				return err != nil && strings.HasPrefix(err.Error(), code)
			})
			var wg sync.WaitGroup
			for what, call := range calls {
				wg.Go(func() {
					for err := call(); err != nil; err = call() { // longer than a call waits, on a slow machine
						if e, ok := rueidis.IsRedisErr(err); !ok || !strings.Contains(e.Error(), code) {
							t.Errorf("%s: got %v, want %s", what, err, code)
							return
						}
					}
				})
			}
			servertest.Eventually(t, "calls were refused", func() bool {
				stats, _ := admin.Do(t.Context(), admin.B().Info().Section("errorstats").Build()).ToString()
				return strings.Contains(stats, "errorstat_"+code)
			})
			run(fault.end)
			wg.Wait()
			check()
		})
	}
}

// openAll opens every package on one new name. Each call adds one thing, and check counts them.
func openAll(t *testing.T, c rueidis.Client) (calls map[string]func() error, check func()) {
	t.Helper()
	return openNamed(t, c, servertest.Prefix(t))
}

func openNamed(t *testing.T, c rueidis.Client, name string) (calls map[string]func() error, check func()) {
	t.Helper()
	ctx, quiet := t.Context(), slog.New(slog.DiscardHandler)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	q, err := queue.New(ctx, c, name, queue.Config{Logger: quiet})
	must(err)
	bounded, err := queue.New(ctx, c, name, queue.Config{Push: queue.PushConfig{MaxDepth: 1000}, Logger: quiet})
	must(err)
	d, err := dedup.New(ctx, c, name, dedup.Config{ExpectedIDs: 1000, Logger: quiet})
	must(err)
	w, err := window.New(ctx, c, name, window.Config{Size: time.Second, Lateness: -1, Logger: quiet})
	must(err)
	g, err := backpressure.New(ctx, c, name, backpressure.Config{Records: backpressure.SourcesOf(q), Logger: quiet})
	must(err)
	tab, err := lookup.New(ctx, c, name, lookup.Config[string, string]{
		Load:   lookup.FromMap(func(context.Context) (map[string]string, error) { return map[string]string{"a": "b"}, nil }),
		Logger: quiet,
	})
	must(err)
	must(q.Push(ctx, []byte("held")))
	held, err := q.TryLease(ctx, queue.LeaseOptions{Duration: time.Hour})
	must(err)
	at := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	calls = map[string]func() error{
		"push":         func() error { return q.Push(ctx, []byte("push")) },
		"bounded push": func() error { return bounded.Push(ctx, []byte("bounded")) },
		"delayed push": func() error { return q.PushAt(ctx, time.Now().Add(time.Hour), []byte("delayed")) },
		"ack":          func() error { _, err := q.Ack(ctx, held.ID); return err },
		"claim":        func() error { _, err := d.Mark(ctx, "id"); return err },
		"add":          func() error { _, err := w.Add(ctx, "k", window.Event{At: at, Data: "event"}); return err },
		"refresh":      func() error { _, err := tab.Refresh(ctx); return err },
		"gate": func() error {
			r, err := g.TryAcquire(ctx, 1)
			if err == nil {
				err = r.Release(ctx)
			}
			return err
		},
	}
	return calls, func() {
		t.Helper()
		s, err := q.Stats(ctx)
		must(err)
		if s.Ready != 2 || s.Delayed != 1 || s.Acked != 1 || s.InFlight != 0 {
			t.Errorf("queue: got %+v, want 2 records ready, 1 delayed, 1 acknowledged", s)
		}
		must(s.Balanced())
		seen, err := d.Seen(ctx, "id")
		if err != nil || !seen[0] {
			t.Errorf("dedup: got %v, %v, want the id", seen, err)
		}
		ws, err := w.Stats(ctx)
		must(err)
		if ws.Events.Added != 1 {
			t.Errorf("window: got %+v, want 1 event", ws)
		}
		if _, err := tab.Snapshot(); err != nil {
			t.Errorf("lookup: %v", err)
		}
		gs, err := g.Stats(ctx)
		if err != nil || gs.ReservedRecords != 0 {
			t.Errorf("gate: got %+v, %v, want no reservation", gs, err)
		}
	}
}
