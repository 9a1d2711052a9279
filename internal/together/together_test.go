package together_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/window"
)

func TestMain(m *testing.M) { servertest.Main(m) }

// Queue, dedup, lookup, window and gate work on one name, hard, with deaths in between. Each has a
// user of the server that may touch the keys of its own package alone, so a key of another one
// would be refused. In the end every book balances.
func TestFivePackagesOnOneName(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	admin := own.Client(t)
	const name = "shared"
	as := func(user string, patterns ...string) rueidis.Client {
		t.Helper()
		args := []string{"SETUSER", user, "reset", "on", ">secret", "+@all", "allchannels"}
		for _, p := range patterns {
			args = append(args, "~"+strings.ReplaceAll(p, "N:", "{"+name+"}:"))
		}
		if err := admin.Do(t.Context(), admin.B().Arbitrary("ACL").Args(args...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		o := redisxtest.Options(t, own.URL)
		o.Username, o.Password, o.DisableCache = user, "secret", true
		c, err := rueidis.NewClient(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	quiet := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	q, err := queue.New(ctx, as("queue", "N:ready", "N:queue:*"), name, queue.Config{
		Lease:  queue.LeaseConfig{Records: 20, Duration: 50 * time.Millisecond, Backoff: time.Millisecond, MaxBackoff: time.Millisecond, MaxCrashes: 1000},
		Logger: quiet,
	})
	must(err)
	// The verdicts of a batch are in the queue's guard hash: that key the two share on purpose.
	d, err := dedup.New(ctx, as("dedup", "N:dedup:*", "N:queue:m:*"), name, dedup.Config{ExpectedIDs: 1000, Logger: quiet})
	must(err)
	w, err := window.New(ctx, as("window", "N:window:*"), name, window.Config{
		Size: time.Second, Lateness: -1, Keep: 366 * 24 * time.Hour, LeaseDuration: 50 * time.Millisecond,
		Backoff: time.Millisecond, MaxBackoff: time.Millisecond, MaxFailures: 1000, Logger: quiet,
	})
	must(err)
	g, err := backpressure.New(ctx, as("gate", "N:gate:*", "N:ready", "N:queue:stat"), name, backpressure.Config{
		Records: backpressure.SourcesOf(q), High: 200, Low: 100, PollInterval: 100 * time.Millisecond, Logger: quiet,
	})
	must(err)
	tab, err := lookup.New(ctx, as("lookup", "N:lookup:*"), name, lookup.Config[string, string]{
		Load: lookup.FromMap(func(context.Context) (map[string]string, error) { return map[string]string{"a": "b"}, nil }),
	})
	must(err)

	const records, events = 2000, 2000
	base := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	var wg sync.WaitGroup
	var mu sync.Mutex
	fresh, acked, seen := 0, 0, map[string]int{}
	dies := func(r *rand.Rand) bool { return r.IntN(4) == 0 }

	wg.Go(func() { // a producer
		for i := 0; i < records; i += 20 {
			room, err := g.Acquire(ctx, 20)
			if err != nil {
				t.Error(err)
				return
			}
			payloads := make([][]byte, 20)
			for j := range payloads {
				payloads[j] = fmt.Append(nil, "id", (i+j)%(records/2)) // each id twice
			}
			if err := q.Push(ctx, payloads...); err != nil {
				t.Error(err)
			}
			if err := room.Release(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	for worker := range 3 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(worker)))
			for {
				mu.Lock()
				done := acked >= records
				mu.Unlock()
				if done || ctx.Err() != nil {
					return
				}
				b, err := q.TryLease(ctx, queue.LeaseOptions{})
				if errors.Is(err, queue.ErrEmpty) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				ids := make([]string, len(b.Payloads))
				for i, p := range b.Payloads {
					ids[i] = string(p)
				}
				verdicts, err := d.Claim(ctx, dedup.Batch{Guard: b.Guard, Root: b.Root, Offset: b.Offset, Records: len(ids)}, nil, ids)
				if err != nil || dies(r) {
					continue // the lease was lost, or the worker dies
				}
				n, err := q.Ack(ctx, b.ID)
				if err != nil {
					t.Error(err)
				}
				if n == 1 {
					mu.Lock()
					acked += len(ids)
					for _, v := range verdicts {
						if v == dedup.VerdictFresh {
							fresh++
						}
					}
					mu.Unlock()
				}
				if err := g.Notify(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() { // events
		for i := range events {
			if _, err := w.Add(ctx, fmt.Sprint("k", i%3), window.Event{At: base.Add(time.Duration(i) * 20 * time.Millisecond), Data: fmt.Sprint(i)}); err != nil {
				t.Error(err)
				return
			}
		}
		for k := range 3 {
			if _, err := w.Add(ctx, fmt.Sprint("k", k), window.Event{At: base.Add(time.Hour), Data: "end"}); err != nil {
				t.Error(err)
			}
		}
	})
	for closer := range 2 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(2, uint64(closer)))
			for ctx.Err() == nil {
				closed, err := w.CloseDue(ctx, 5)
				if err != nil {
					t.Error(err)
					return
				}
				for _, x := range closed {
					if dies(r) {
						continue
					}
					if err := w.Done(ctx, x); err == nil {
						mu.Lock()
						for _, e := range x.Events {
							seen[x.Key+" "+e.Data]++
						}
						mu.Unlock()
					} else if !errors.Is(err, window.ErrLeaseLost) {
						t.Error(err)
					}
				}
				mu.Lock()
				done := len(seen) >= events
				mu.Unlock()
				if done {
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			if _, err := tab.Refresh(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if ctx.Err() != nil {
		t.Fatalf("it hung: %d of %d records acknowledged, %d of %d events done", acked, records, len(seen), events)
	}

	if acked != records || fresh != records/2 {
		t.Errorf("got %d records acknowledged, %d of them fresh, want %d and %d", acked, fresh, records, records/2)
	}
	for e, n := range seen {
		if n != 1 {
			t.Errorf("event %s was done %d times, want once", e, n)
		}
	}
	qs, err := q.Stats(ctx)
	must(err)
	must(qs.Balanced())
	qa, err := q.Audit(ctx)
	if err != nil || len(qa.Differences) > 0 {
		t.Errorf("audit of the queue: %q, %v", qa.Differences, err)
	}
	ws, err := w.Stats(ctx)
	must(err)
	must(ws.Balanced())
	wa, err := w.Audit(ctx)
	if err != nil || wa.Balanced() != nil {
		t.Errorf("audit of the windows: %v, %v", wa.Balanced(), err)
	}
	ga, err := g.Audit(ctx)
	if err != nil || ga.Balanced() != nil {
		t.Errorf("audit of the gate: %v, %v", ga.Balanced(), err)
	}
	gs, err := g.Stats(ctx)
	if err != nil || gs.Records != 0 || gs.ReservedRecords != 0 {
		t.Errorf("got %+v, %v, want an empty gate", gs, err)
	}
	snapshot, err := tab.Snapshot()
	must(err)
	if got, ok := snapshot.Get("a"); !ok || got != "b" {
		t.Errorf("got %q, %v from the lookup table, want b", got, ok)
	}

	keys, err := admin.Do(ctx, admin.B().Keys().Pattern("*").Build()).AsStrSlice()
	must(err)
	owners := map[string]int{}
	for _, k := range keys {
		owner := ""
		for _, p := range []string{"ready", "queue:", "dedup:", "lookup:", "window:", "gate:"} {
			if strings.HasPrefix(k, "{"+name+"}:"+p) {
				owner = p
			}
		}
		if owner == "" {
			t.Errorf("key %q belongs to no package", k)
		}
		owners[owner]++
	}
	for _, p := range []string{"queue:", "dedup:", "lookup:", "window:", "gate:"} {
		if owners[p] == 0 {
			t.Errorf("no key of %s among %q", p, keys)
		}
	}
}
