package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

func TestCluster(t *testing.T) {
	servertest.EachCluster(t, func(t *testing.T, cl *servertest.Cluster) {
		t.Run("durable", func(t *testing.T) { durableAcrossAMove(t, cl) })
		t.Run("a slot without an owner", func(t *testing.T) { slotWithoutOwner(t, cl) })
		t.Run("half a slot", func(t *testing.T) { halfASlot(t, cl) })
		t.Run("a slot moves", func(t *testing.T) {
			r := startRun(t, cl, "moves")
			slot := cl.Slot(t, "{"+r.q.Name()+"}")
			moved, at := 0, 0
			for round := range 6 {
				to := (at + 1 + round%2) % 3
				cl.Begin(t, slot, at, to)
				moved += cl.Finish(t, slot, at, to)
				at = to
			}
			r.finish(t)
			t.Logf("slot %d moved 6 times, %d keys", slot, moved)
		})
		t.Run("a replica takes over", func(t *testing.T) {
			r := startRun(t, cl, "takeover")
			slot := cl.Slot(t, "{"+r.q.Name()+"}")
			for _, to := range []int{servertest.Masters, 0} { // to and fro: each is the other's replica in turn
				cl.Do(t, to, "CLUSTER", "FAILOVER")
				if !servertest.Eventually(t, "the replica takes over", func() bool { return cl.Agree(t, slot, to) }) {
					break
				}
				if !servertest.Eventually(t, "the old master follows", func() bool { return cl.Follows(t, servertest.Masters-to) }) {
					break
				}
			}
			r.finish(t)
		})
	})
}

// durableAcrossAMove: the client does not know yet that the slot has moved. The old node would
// confirm at once that its disk has all that came on the connection, which is nothing.
func durableAcrossAMove(t *testing.T, cl *servertest.Cluster) {
	if !cl.Has(t, "WAITAOF") {
		return // Redis 7.0; New returns ErrNoAOF, as TestDurablePush shows
	}
	for i := range servertest.Masters {
		cl.Do(t, i, "CONFIG", "SET", "appendfsync", "always") // WAITAOF answers at once
		cl.Do(t, i, "CONFIG", "SET", "appendonly", "yes")
		defer cl.Do(t, i, "CONFIG", "SET", "appendonly", "no")
	}
	cfg := queue.Config{Push: queue.PushConfig{Durable: true}, Logger: quiet}
	var q, bounded *queue.Queue
	servertest.Eventually(t, "the nodes have their files", func() (ok bool) {
		var err error
		q, err = queue.New(t.Context(), cl.Client, "durable", cfg)
		return err == nil && q.Push(t.Context(), records(0, 1)...) == nil
	})
	cfg.Push.MaxDepth = 1000
	bounded, err := queue.New(t.Context(), cl.Client, "durable", cfg)
	must(t, err)
	slot := cl.Slot(t, "{durable}")
	at := slot * servertest.Masters / 16384
	home := at
	for what, push := range map[string]func() error{
		"push":    func() error { return q.Push(t.Context(), records(0, 1)...) },
		"bounded": func() error { return bounded.Push(t.Context(), records(0, 1)...) },
	} {
		for _, disk := range []string{"yes", "no"} {
			to := (at + 1) % servertest.Masters
			cl.Do(t, to, "CONFIG", "SET", "appendonly", disk)
			cl.Begin(t, slot, at, to)
			cl.Finish(t, slot, at, to)
			at = to
			if err := push(); (err == nil) != (disk == "yes") || err != nil && !errors.Is(err, queue.ErrNotDurable) {
				t.Errorf("%s to a node with appendonly %s: %v", what, disk, err)
			}
			cl.Do(t, to, "CONFIG", "SET", "appendonly", "yes")
			servertest.Eventually(t, "the node has its file", func() bool { return push() == nil })
		}
	}
	if at != home {
		cl.Begin(t, slot, at, home)
		cl.Finish(t, slot, at, home)
	}
}

// slotWithoutOwner: between two masters a client finds none for the slot. A call waits then.
func slotWithoutOwner(t *testing.T, cl *servertest.Cluster) {
	q, err := queue.New(t.Context(), cl.Client, "ownerless", quick)
	must(t, err)
	must(t, q.Push(t.Context(), records(0, 3)...))
	b := lease(t, q, queue.LeaseOptions{Records: 1, Duration: time.Hour})
	giveBack := cl.TakeAway(t, b.Guard)
	done := make(chan error, 4)
	for what, f := range map[string]func(context.Context) error{
		"push":  func(ctx context.Context) error { return q.Push(ctx, records(3, 4)...) },
		"delay": func(ctx context.Context) error { return q.PushAt(ctx, time.Now().Add(time.Hour), []byte("x")) },
		"lease": func(ctx context.Context) error { _, err := q.TryLease(ctx, queue.LeaseOptions{Records: 1}); return err },
		"ack":   func(ctx context.Context) error { _, err := q.Ack(ctx, b.ID); return err },
	} {
		go func() {
			err := f(t.Context())
			if err != nil {
				err = fmt.Errorf("%s: %w", what, err)
			}
			done <- err
		}()
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var pe *queue.PushError
	if err := q.Push(short, []byte("never")); err == nil || errors.As(err, &pe) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a push to a slot without an owner: got %v, want a refusal", err)
	}
	if n := len(done); n > 0 {
		t.Errorf("%d did not wait", n)
	}
	giveBack()
	for range cap(done) {
		must(t, <-done)
	}
	st := books(t, q)
	if st.Ready != 2 || st.Delayed != 1 || st.InFlight != 1 || st.Acked != 1 {
		t.Errorf("%+v", st)
	}
}

// halfASlot: the meta hash of each batch is on the other node. The keys of the whole queue are all
// where they were, so the node would begin a script that names only those, and the script would end
// in its middle, or take the batch for gone. The key that never exists makes the node refuse before
// anything is done.
func halfASlot(t *testing.T, cl *servertest.Cluster) {
	cfg := quick
	cfg.Logger = quiet
	s, err := queue.NewShards(t.Context(), cl.Client, "half", 3, nil, cfg)
	must(t, err)
	q := s.Queues()[0]
	kept := fillEveryKey(t, q, 0)
	leased := lease(t, q, queue.LeaseOptions{Records: 1, Duration: time.Hour})
	again := lease(t, q, queue.LeaseOptions{Records: 1, Duration: time.Hour})
	must(t, q.Release(t.Context(), again, queue.ReleaseOptions{}))
	before := books(t, q)

	// Of the keys that every script names, only the one that never exists is missing.
	zsets := []string{"dead", "broken", "pushing"}
	for _, z := range zsets {
		key := "{" + q.Name() + "}:queue:" + z
		must(t, cl.Client.Do(t.Context(), cl.Client.B().Zadd().Key(key).ScoreMember().ScoreMember(9e15, "x:0").Build()).Error())
	}
	slot := cl.Slot(t, "{"+q.Name()+"}")
	cl.Begin(t, slot, 0, 1)
	for _, b := range append(kept, leased, again) {
		cl.Move(t, b.Guard, 0, 1)
	}
	var refused sync.WaitGroup
	for what, f := range map[string]func(context.Context) error{
		"ack":       func(ctx context.Context) error { _, err := q.Ack(ctx, leased.ID); return err },
		"extend":    func(ctx context.Context) error { return q.Extend(ctx, leased, time.Hour) },
		"handoff":   func(ctx context.Context) error { return q.Handoff(ctx, leased) },
		"release":   func(ctx context.Context) error { return q.Release(ctx, leased, queue.ReleaseOptions{}) },
		"settle":    func(ctx context.Context) error { return q.Settle(ctx, leased, queue.Resolution{}) },
		"lease":     func(ctx context.Context) error { _, err := q.TryLease(ctx, queue.LeaseOptions{Records: 1}); return err },
		"stats":     func(ctx context.Context) error { _, err := q.Stats(ctx); return err },
		"delay":     func(ctx context.Context) error { return q.PushAt(ctx, time.Now().Add(time.Hour), []byte("x")) },
		"requeue":   func(ctx context.Context) error { _, err := q.Requeue(ctx, "none"); return err },
		"drop":      func(ctx context.Context) error { _, err := q.Discard(ctx, "none"); return err },
		"reconcile": func(ctx context.Context) error { return reconcileUnknown(ctx, q) },
	} {
		refused.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			// It is tried again until then; the last try may be under way.
			if err := f(ctx); err == nil || !strings.Contains(err.Error(), "TRYAGAIN") && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s met half of the slot and was not refused: %v", what, err)
			}
		})
	}
	refused.Wait()
	done := make(chan error, 1)
	go func() { // it waits for the end of the move
		n, err := q.Ack(t.Context(), leased.ID)
		if err == nil && n != 1 {
			err = fmt.Errorf("%d batches acknowledged", n)
		}
		done <- err
	}()
	cl.Finish(t, slot, 0, 1)
	must(t, <-done)
	for _, z := range zsets {
		must(t, cl.Client.Do(t.Context(), cl.Client.B().Zrem().Key("{"+q.Name()+"}:queue:"+z).Member("x:0").Build()).Error())
	}
	after := books(t, q)
	before.Acked, before.InFlight, before.LeasedBatches = before.Acked+1, before.InFlight-1, before.LeasedBatches-1
	before.At, after.At = time.Time{}, time.Time{}
	before.OldestAge, after.OldestAge, before.ClockBehind, after.ClockBehind = 0, 0, 0, 0
	if after != before {
		t.Errorf("%+v, want %+v", after, before)
	}
	if b := lease(t, q, queue.LeaseOptions{Records: 1}); b.ID != again.ID {
		t.Errorf("the batch that waited for redelivery is lost: %+v", b)
	}
	cl.Begin(t, slot, 1, 0) // back, for the next test
	cl.Finish(t, slot, 1, 0)
}

func reconcileUnknown(ctx context.Context, q *queue.Queue) error {
	_, err := q.Reconcile(ctx, func(_ context.Context, ids []string) ([]queue.BatchFate, error) {
		return make([]queue.BatchFate, len(ids)), nil
	}, nil)
	return err
}

// fillEveryKey makes every kind of key exist for as long as the test lasts: only the one that never
// does is missing.
func fillEveryKey(t *testing.T, q *queue.Queue, from int) (kept []*queue.Batch) {
	t.Helper()
	ctx := t.Context()
	must(t, q.Push(ctx, records(from, from+10)...))
	for range 3 {
		kept = append(kept, lease(t, q, queue.LeaseOptions{Records: 1, Duration: time.Hour}))
	}
	must(t, q.Handoff(ctx, kept[0]))
	must(t, q.Release(ctx, kept[1], queue.ReleaseOptions{Delay: time.Hour}))
	must(t, q.PushAt(ctx, time.Now().Add(time.Hour), records(from+10, from+11)...))
	return kept
}

// run is a queue of three shards on three masters, with a producer and consumers. Batches in flight
// are many keys; a script that saw only half of them would take the others for gone.
type run struct {
	s      *queue.Shards
	q      *queue.Queue // the shard on the first master
	kept   []*queue.Batch
	cancel context.CancelFunc
	wg     sync.WaitGroup
	pushed chan struct{}

	mu   sync.Mutex
	seen map[string]int
}

const runRecords = 20_000

func startRun(t *testing.T, cl *servertest.Cluster, name string) *run {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	cfg := quick
	cfg.Logger, cfg.Lease.Duration, cfg.Lease.MaxCrashes = quiet, 5*time.Second, 100
	s, err := queue.NewShards(ctx, cl.Client, name, servertest.Masters, nil, cfg)
	must(t, err)
	for i, q := range s.Queues() {
		if at := cl.Slot(t, "{"+q.Name()+"}") * servertest.Masters / 16384; at != i {
			t.Fatalf("shard %d is on master %d", i, at)
		}
	}
	r := &run{s: s, q: s.Queues()[0], cancel: cancel, pushed: make(chan struct{}), seen: map[string]int{}}
	r.kept = fillEveryKey(t, r.q, runRecords)
	for range 4 {
		r.wg.Go(func() { r.consume(ctx, t) })
	}
	r.wg.Go(func() {
		defer close(r.pushed)
		for i := 0; i < runRecords; i += 100 {
			if err := s.Push(ctx, records(i, i+100)...); err != nil {
				t.Errorf("push: %v", err)
			}
			<-time.After(5 * time.Millisecond) // so that what happens meanwhile has something to happen to
		}
	})
	return r
}

func (r *run) consume(ctx context.Context, t *testing.T) {
	for i := 0; ; i++ {
		b, err := r.s.Lease(ctx, queue.LeaseOptions{Records: 20})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			t.Logf("lease: %v", err) // redelivered when its lease has expired
			continue
		}
		if i%3 == 0 {
			if err := r.s.Release(ctx, b, queue.ReleaseOptions{}); err != nil && !errors.Is(err, queue.ErrLeaseLost) {
				t.Logf("release: %v", err)
			}
			continue
		}
		r.mu.Lock()
		for _, p := range b.Payloads {
			r.seen[string(p)]++
		}
		r.mu.Unlock()
		for {
			if _, err := r.s.Ack(ctx, b.ID); err == nil || ctx.Err() != nil {
				break
			} else {
				t.Logf("ack: %v", err)
			}
		}
	}
}

// finish waits until all is acknowledged, and counts.
func (r *run) finish(t *testing.T) {
	t.Helper()
	<-r.pushed
	const fresh = 7 // of the records that fillEveryKey left ready
	servertest.Eventually(t, "everything is acknowledged", func() bool {
		st, err := r.s.Stats(t.Context())
		return err == nil && st.Acked == runRecords+fresh
	})
	r.cancel()
	r.wg.Wait()
	if len(r.seen) != runRecords+fresh {
		t.Errorf("%d of %d records came", len(r.seen), runRecords+fresh)
	}
	for i, q := range r.s.Queues() {
		st := books(t, q)
		if want := map[bool]int64{true: 3}[i == 0]; st.Dead != 0 || st.InFlight != want || st.Delayed != want/3 {
			t.Errorf("%+v", st)
		}
	}
	for _, b := range r.kept {
		if _, err := r.q.Get(t.Context(), b.ID); err != nil {
			t.Error(err)
		}
	}
}
