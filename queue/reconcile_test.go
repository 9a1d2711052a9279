package queue_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

func TestReconcile(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		l := newLedger()
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 12)...))
		var bs []*queue.Batch
		for range 4 {
			b := lease(t, q, queue.LeaseOptions{Records: 3})
			must(t, q.Handoff(ctx, b))
			bs = append(bs, b)
		}
		l.promote(bs[0])
		l.regs[bs[1].ID] = true
		l.kind[bs[2].ID] = queue.FateVoid
		if h, err := q.HandedOff(ctx); err != nil || len(h) != 4 {
			t.Fatal(h, err)
		}
		r, err := q.Reconcile(ctx, l.known, l.settle)
		must(t, err)
		if want := (queue.ReconcileResult{Seen: 4, Acked: 1, Left: 1, Settled: 1, Redelivered: 1}); r != want {
			t.Fatalf("%+v", r)
		}
		// The void one was split, not acknowledged: its records are redelivered, under other ids.
		again := map[string]string{}
		for {
			b, err := q.TryLease(ctx, queue.LeaseOptions{})
			if errors.Is(err, queue.ErrEmpty) {
				break
			}
			must(t, err)
			if b.Failures+b.Crashes > 0 {
				t.Fatalf("counted against the batch: %+v", b)
			}
			for _, p := range b.Payloads {
				again[string(p)] = b.ID
			}
		}
		if len(again) != 6 || again["6"] == bs[2].ID || again["9"] != bs[3].ID {
			t.Fatalf("delivered again: %v", again)
		}
		if s := books(t, q); s.HandedOff != 3 || s.HandedOffBatches != 1 || s.Acked != 3 || s.InFlight != 9 {
			t.Fatalf("%+v", s)
		}
		if _, err := q.Reconcile(ctx, func(context.Context, []string) ([]queue.BatchFate, error) { return nil, nil }, nil); err == nil {
			t.Fatal("too few answers went unnoticed")
		}
	})
}

// A reconcile that asked about a batch before it came back and was handed off anew must not bring
// it back once more.
func TestReconcileIsFenced(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 3)...))
		must(t, q.Handoff(ctx, lease(t, q, queue.LeaseOptions{})))
		unknown := func(context.Context, []string) ([]queue.BatchFate, error) { return []queue.BatchFate{{}}, nil }
		r, err := q.Reconcile(ctx, func(ctx context.Context, ids []string) ([]queue.BatchFate, error) {
			if _, err := q.Reconcile(ctx, unknown, nil); err != nil {
				return nil, err
			}
			return []queue.BatchFate{{}}, q.Handoff(ctx, lease(t, q, queue.LeaseOptions{}))
		}, nil)
		must(t, err)
		if r.Redelivered != 0 || books(t, q).HandedOffBatches != 1 {
			t.Fatalf("%+v", r)
		}
	})
}

// An hour without Postgres. Some batches wait for promotion all the time, some are released again
// and again, some come back from a scratchpad that a crash has emptied. None of it is a failure of
// theirs.
func TestAnHourWithoutPostgresBuriesNothing(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{m.Addr()}, DisableCache: true, ForceSingleClient: true})
	must(t, err)
	t.Cleanup(c.Close)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	m.SetTime(now)
	q := openAs(t, c, "hour", queue.Config{})
	l := newLedger()
	l.err = errors.New("no Postgres")
	ctx := t.Context()
	must(t, q.Push(ctx, records(0, 100)...))
	hour := now.Add(time.Hour)
	for round := 0; now.Before(hour); round++ {
		now = now.Add(10 * time.Second)
		m.SetTime(now)
		for i := 0; ; i++ {
			b, err := q.TryLease(ctx, queue.LeaseOptions{Records: 10, Settle: l.settle})
			if errors.Is(err, queue.ErrEmpty) {
				break
			}
			must(t, err)
			if b.Failures > 0 || b.Crashes > 0 {
				t.Fatalf("round %d: counted against a healthy batch: %+v", round, b)
			}
			if i%2 == 0 {
				must(t, q.Handoff(ctx, b)) // staged before it went away
			} else {
				must(t, q.Extend(ctx, b, 0))
				must(t, q.Release(ctx, b, queue.ReleaseOptions{Delay: 5 * time.Second}))
			}
		}
		if round%6 == 5 { // it comes up for a moment, with nothing in its staging table
			_, err := q.Reconcile(ctx, func(_ context.Context, ids []string) ([]queue.BatchFate, error) {
				return make([]queue.BatchFate, len(ids)), nil
			}, l.settle)
			must(t, err)
		}
	}
	if s := books(t, q); s.Dead != 0 || s.Splits != 0 || s.InFlight != 100 || l.calls != 0 {
		t.Fatalf("%+v, %d settled", s, l.calls)
	}
}
