package window_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
)

func TestCluster(t *testing.T) {
	servertest.EachCluster(t, func(t *testing.T, cl *servertest.Cluster) {
		t.Run("half a slot", func(t *testing.T) { halfASlot(t, cl) })
		t.Run("a slot moves", func(t *testing.T) { slotMoves(t, cl) })
	})
}

// onMaster returns a name whose slot is on a master.
func onMaster(t *testing.T, cl *servertest.Cluster, master int) (name string, slot int) {
	t.Helper()
	for i := 0; ; i++ {
		name = fmt.Sprint("w", i)
		if slot = cl.Slot(t, "{"+name+"}"); slot*servertest.Masters/16384 == master {
			return name, slot
		}
	}
}

// halfASlot: what all windows share has moved and their events have not, or the other way round.
// Every call is refused as a whole. Of the keys that every script names, only the one that never
// exists is missing.
func halfASlot(t *testing.T, cl *servertest.Cluster) {
	name, slot := onMaster(t, cl, 0)
	cfg := window.Config{Size: time.Second, Lateness: -1, Idle: time.Minute, Keep: time.Hour, MaxFailures: 1}
	w := named(t, cl.Client, name, cfg)
	p := "{" + name + "}:window:"
	add(t, w, "k", at(0, "a"), at(time.Second, "b"), at(2*time.Second, "c"), at(3*time.Second, "d"), at(4*time.Second, "e"))
	add(t, w, "k", window.Event{At: time.Now(), Data: "now"})
	add(t, w, "k", at(0, "late"))
	closed := closeDue(t, w, 3)
	for i, failure := range map[int]string{1: "", 2: "it cannot be read"} {
		if err := w.Release(t.Context(), closed[i], window.ReleaseOptions{Failure: failure}); err != nil {
			t.Fatal(err)
		}
	}
	before, err := w.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	shared := []string{p + "meta", p + "idle", p + "due", p + "leases", p + "dead", p + "expiry", p + "open:k", p + "marks:k"}
	own := []string{p + "late:", p + "slide:k"}
	for i := range 5 {
		n := windowName(time.Duration(i)*time.Second, time.Second, "k")
		own = append(own, p+"events:"+n, p+"info:"+n)
	}
	at0, at1 := 0, 1
	for _, half := range [][]string{shared, own} {
		cl.Begin(t, slot, at0, at1)
		for _, key := range half {
			cl.Move(t, key, at0, at1)
		}
		var calls sync.WaitGroup
		for what, f := range map[string]func(context.Context) error{
			"add":     func(ctx context.Context) error { _, err := w.Add(ctx, "k", at(0, "x"), at(time.Hour, "y")); return err },
			"close":   func(ctx context.Context) error { _, err := w.CloseDue(ctx, 10); return err },
			"done":    func(ctx context.Context) error { return w.Done(ctx, closed[0]) },
			"extend":  func(ctx context.Context) error { return w.Extend(ctx, closed[0], time.Hour) },
			"release": func(ctx context.Context) error { return w.Release(ctx, closed[0], window.ReleaseOptions{}) },
			"range":   func(ctx context.Context) error { _, err := w.Range(ctx, "k", noon, noon); return err },
			"page":    func(ctx context.Context) error { _, _, err := w.RangePage(ctx, "k", noon, noon, "", 1); return err },
			"last":    func(ctx context.Context) error { _, err := w.LastCount(ctx, "k", time.Minute); return err },
			"late":    func(ctx context.Context) error { _, _, err := w.Late(ctx, "", 1); return err },
			"open":    func(ctx context.Context) error { _, err := w.OpenWindows(ctx, "k", noon, 1); return err },
			"dead":    func(ctx context.Context) error { _, _, err := w.DeadWindows(ctx, "", 1); return err },
			"discard": func(ctx context.Context) error { return w.DiscardLate(ctx, window.LateEvent{}) },
			"windows": func(ctx context.Context) error { _, _, err := w.Windows(ctx, window.PhaseOpen, "", 1); return err },
			"stats":   func(ctx context.Context) error { _, err := w.Stats(ctx); return err },
			"new":     func(ctx context.Context) error { _, err := window.New(ctx, cl.Client, name, cfg); return err },
		} {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
				defer cancel()
				// It is tried again until then; the last try may be under way.
				if err := f(ctx); err == nil || !strings.Contains(err.Error(), "TRYAGAIN") && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s met half of the slot: got %v, want a refusal", what, err)
				}
			})
		}
		calls.Wait()
		finished := make(chan error)
		go func() { // it waits for the end of the move
			_, err := w.Stats(t.Context())
			finished <- err
		}()
		cl.Finish(t, slot, at0, at1)
		if err := <-finished; err != nil {
			t.Error(err)
		}
		after := balanced(t, w)
		before.OldestDue, after.OldestDue = 0, 0
		want(t, "nothing has changed", after, before)
		at0, at1 = at1, at0
	}
	if err := w.Done(t.Context(), closed[0]); err != nil {
		t.Error(err)
	}
	if got := closeDue(t, w, 10); len(got) < 2 {
		t.Errorf("got %v, want the windows that were due", show(got...))
	}
}

// slotMoves: producers and closers work while the slot goes round the masters. Nothing is lost or
// counted twice.
func slotMoves(t *testing.T, cl *servertest.Cluster) {
	const name = "moves"
	slot := cl.Slot(t, "{"+name+"}")
	from := slot * servertest.Masters / 16384
	w := named(t, cl.Client, name, window.Config{Size: time.Second, Lateness: -1, Idle: time.Minute, LeaseDuration: time.Minute})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	added, seen := map[string]bool{}, map[string]int{}
	for p := range 3 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				data := fmt.Sprint(p, "/", i)
				r, err := w.Add(t.Context(), fmt.Sprint("k", p), at(time.Duration(i)*100*time.Millisecond, data))
				if err != nil || r.New != 1 {
					t.Errorf("add: got %+v, %v, want one new", r, err)
					return
				}
				mu.Lock()
				added[data] = true
				mu.Unlock()
			}
		})
	}
	take := func() int {
		closed, err := w.CloseDue(t.Context(), 10)
		if err != nil {
			t.Error(err)
		}
		for _, x := range closed {
			if err := w.Done(t.Context(), x); err != nil {
				t.Error(err)
			}
			mu.Lock()
			for _, e := range x.Events {
				seen[e.Data]++
			}
			mu.Unlock()
		}
		return len(closed)
	}
	closer := make(chan bool)
	go func() {
		defer close(closer)
		for ctx.Err() == nil {
			take()
		}
	}()
	moved, here := 0, from
	for round := range 4 {
		to := (here + 1 + round%2) % servertest.Masters
		cl.Begin(t, slot, here, to)
		moved += cl.Finish(t, slot, here, to)
		here = to
	}
	cancel()
	wg.Wait()
	<-closer
	for p := range 3 {
		add(t, w, fmt.Sprint("k", p), at(10*time.Hour, "end"))
	}
	for take() > 0 {
	}
	for data := range added {
		if seen[data] != 1 {
			t.Errorf("%s was delivered %d times, want once", data, seen[data])
		}
	}
	st := balanced(t, w)
	want(t, "events", st.Events, window.EventCounts{Added: int64(len(added)) + 3, Open: 3, Done: int64(len(added))})
	t.Logf("slot %d moved 4 times, %d keys, %d events", slot, moved, len(added))
}
