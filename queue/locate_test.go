package queue_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// A batch in each state, with what an operator asks for.
func TestBatches(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx := t.Context()
		q := open(t, c, quick)
		must(t, q.Push(ctx, records(0, 12)...))
		var batches []*queue.Batch
		for range 4 {
			batches = append(batches, lease(t, q, queue.LeaseOptions{Records: 3, Duration: time.Minute, Worker: "w7"}))
		}
		must(t, q.ExtendWaiting(ctx, batches[1], time.Minute))
		must(t, q.Handoff(ctx, batches[2]))
		must(t, q.Release(ctx, batches[3], queue.ReleaseOptions{Failure: "bad luck", Delay: time.Hour}))
		ids := []string{"none"}
		for _, b := range batches {
			ids = append(ids, b.ID)
		}
		got, err := q.Batches(ctx, ids...)
		must(t, err)
		if len(got) != 4 {
			t.Fatalf("got %+v, want 4 batches", got)
		}
		for i, want := range []queue.BatchState{queue.BatchStateLeased, queue.BatchStateLeased, queue.BatchStateHandedOff, queue.BatchStateWaiting} {
			b, sealed := got[i], batches[i]
			if b.ID != sealed.ID || b.State != want || b.Root != sealed.Root || b.Records != 3 || b.Attempt != 1 || b.Worker != "w7" ||
				!b.Sealed.Equal(sealed.Sealed) || b.Waits != (i == 1) || !b.Holds(b.ID, 2) || b.Holds(b.ID, 3) {
				t.Errorf("got %+v, want batch %s %v", b, sealed.ID, want)
			}
			// A deadline or a time of redelivery lies ahead, a hand-off behind.
			if ahead := b.Since.After(sealed.Sealed.Add(30 * time.Second)); ahead != (want != queue.BatchStateHandedOff) {
				t.Errorf("%v since %v, sealed at %v", b.State, b.Since, b.Sealed)
			}
		}
		if got[3].Failures != 1 || got[3].Reason != "bad luck" {
			t.Errorf("got %+v, want one failure and its reason", got[3])
		}
		oldest, total, err := q.InFlight(ctx, batches[0].Sealed, 10)
		must(t, err)
		if total != 4 || !slices.ContainsFunc(oldest, func(b queue.BatchInfo) bool { return b.ID == batches[0].ID }) {
			t.Errorf("until the first seal: got %+v of %d, want batch %s of 4", oldest, total, batches[0].ID)
		}
		youngest, _, err := q.InFlight(ctx, batches[3].Sealed, 1)
		must(t, err)
		if len(youngest) != 1 || youngest[0].Sealed.Before(batches[3].Sealed) {
			t.Errorf("the youngest: got %+v", youngest)
		}
		// Another lease names its own worker.
		must(t, q.Release(ctx, batches[0], queue.ReleaseOptions{}))
		lease(t, q, queue.LeaseOptions{Worker: "w8" + strings.Repeat("x", 300)})
		got, err = q.Batches(ctx, batches[0].ID)
		must(t, err)
		if got[0].Worker != "w8"+strings.Repeat("x", queue.MaxWorker-2) || got[0].Attempt != 2 {
			t.Errorf("after a redelivery: got %+v, want attempt 2 of w8", got[0])
		}
		_, _, err = q.InFlight(ctx, time.Now(), 0)
		wantErr(t, err, queue.ErrConfig)
	})
}

// A broken batch is described as far as its hash goes.
func TestBrokenBatchIsLocated(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	q := open(t, c, quick)
	must(t, q.Push(t.Context(), records(0, 4)...))
	b := lease(t, q, queue.LeaseOptions{})
	must(t, q.Release(t.Context(), b, queue.ReleaseOptions{}))
	must(t, c.Do(t.Context(), c.B().Lpop().Key("{"+q.Name()+"}:queue:b:"+b.ID).Build()).Error())
	_, err := q.TryLease(t.Context(), queue.LeaseOptions{}) // sets it aside
	wantErr(t, err, queue.ErrEmpty)
	got, err := q.Batches(t.Context(), b.ID)
	must(t, err)
	if len(got) != 1 || got[0].State != queue.BatchStateBroken {
		t.Errorf("got %+v, want a broken batch", got)
	}
}

// Scan passes on each record once, with its place, and takes nothing away.
func TestScan(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx := t.Context()
		q := open(t, c, quick)
		must(t, q.Push(ctx, []byte("dead")))
		dead := lease(t, q, queue.LeaseOptions{})
		must(t, q.Settle(ctx, dead, queue.Resolution{}))
		must(t, q.Push(ctx, records(0, 5)...))
		b := lease(t, q, queue.LeaseOptions{Records: 3})
		for from := 5; from < 705; from += 100 { // several chunks
			must(t, q.Push(ctx, records(from, from+100)...))
		}
		due := time.UnixMilli(time.Now().Add(time.Hour).UnixMilli())
		must(t, q.PushAt(ctx, due, records(900, 903)...))
		var got []string
		counts, err := q.Scan(ctx, queue.ScanOptions{}, func(part []queue.ScannedRecord) error {
			for _, r := range part {
				got = append(got, string(r.Payload))
				switch r.Place {
				case queue.PlaceInFlight:
					if r.Batch == nil || r.Batch.ID != b.ID || string(b.Payloads[r.Position]) != string(r.Payload) {
						t.Errorf("got %+v, want batch %s", r, b.ID)
					}
				case queue.PlaceReady:
					if want := string(records(r.Position+3, r.Position+4)[0]); string(r.Payload) != want {
						t.Errorf("ready at %d: got %s, want %s", r.Position, r.Payload, want)
					}
				case queue.PlaceDelayed:
					if !r.Due.Equal(due) {
						t.Errorf("got due %v, want %v", r.Due, due)
					}
				case queue.PlaceDead:
					if r.Dead == nil || r.Dead.ID != dead.ID {
						t.Errorf("got %+v, want dead letter %s", r.Dead, dead.ID)
					}
				}
			}
			return nil
		})
		must(t, err)
		want := append(append([]string{"900", "901", "902"}, texts(records(3, 705))...), "0", "1", "2", "dead")
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("records (-want +got):\n%s", d)
		}
		for i, total := range []int64{3, 702, 3, 1} {
			if counts[i].Total != total || !counts[i].Complete() {
				t.Errorf("got %+v, want %d", counts[i], total)
			}
		}
		// Bounds hold by place, and an error of visit ends it.
		seen := map[queue.Place]int64{}
		counts, err = q.Scan(ctx, queue.ScanOptions{Records: 2}, func(part []queue.ScannedRecord) error {
			seen[part[0].Place] += int64(len(part))
			return nil
		})
		must(t, err)
		for _, n := range counts {
			if n.Scanned != min(n.Total, 2) || n.Scanned != seen[n.Place] || n.Complete() != (n.Total <= 2) {
				t.Errorf("with a bound of 2: got %+v, passed %d", n, seen[n.Place])
			}
		}
		stop := errors.New("found it")
		if _, err := q.Scan(ctx, queue.ScanOptions{}, func([]queue.ScannedRecord) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("got %v, want the error of visit", err)
		}
		if s := books(t, q); s.Ready != 702 || s.InFlight != 3 || s.Dead != 1 {
			t.Errorf("after the scans: got %+v", s)
		}
		letter, err := q.DeadLetter(ctx, dead.ID)
		if err != nil || string(letter.Payload) != "dead" {
			t.Errorf("got %+v, %v", letter, err)
		}
		_, err = q.DeadLetter(ctx, b.ID)
		wantErr(t, err, queue.ErrGone)
	})
}

// Large records are read one by one, and the bound on bytes ends the scan.
// A consumer that works during a scan shifts the ready list under it.
func TestScanDuringConsumption(t *testing.T) {
	t.Parallel()
	q := open(t, servertest.Redis(t), quick)
	must(t, q.Push(t.Context(), records(0, 100)...))
	took := false
	counts, err := q.Scan(t.Context(), queue.ScanOptions{}, func(part []queue.ScannedRecord) error {
		if part[0].Place == queue.PlaceReady && !took {
			took = true
			lease(t, q, queue.LeaseOptions{Records: 10})
			must(t, q.Push(t.Context(), records(100, 110)...)) // as many as before: the sums hide it
		}
		return nil
	})
	must(t, err)
	if got := counts[1]; got.Complete() || !got.Moved || counts[0].Moved {
		t.Errorf("got %+v, want an incomplete scan of the ready list alone", counts)
	}
}

func TestScanBoundsBytes(t *testing.T) {
	t.Parallel()
	q := open(t, servertest.Redis(t), quick)
	for range 40 {
		must(t, q.Push(t.Context(), make([]byte, 300<<10)))
	}
	largest := 0
	counts, err := q.Scan(t.Context(), queue.ScanOptions{Bytes: 6 << 20}, func(part []queue.ScannedRecord) error {
		largest = max(largest, len(part))
		return nil
	})
	must(t, err)
	if got := counts[1]; got.Scanned != 21 || got.Total != 40 || largest > 16 {
		t.Errorf("got %+v in parts of up to %d, want 21 of 40 in parts of up to 16", got, largest)
	}
}

// Annotation reads what another package keeps with a batch.
func TestAnnotation(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	q := open(t, c, quick)
	must(t, q.Push(t.Context(), records(0, 2)...))
	b := lease(t, q, queue.LeaseOptions{})
	must(t, c.Do(t.Context(), c.B().Hset().Key(b.Guard).FieldValue().FieldValue("r:x", "fd").Build()).Error())
	for name, want := range map[string]string{"x": "fd", "y": ""} {
		if got, err := q.Annotation(t.Context(), b.ID, name); got != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	if got, err := q.Annotation(context.WithoutCancel(t.Context()), "none", "x"); got != "" || err != nil {
		t.Errorf("a batch that is gone: got %q, %v", got, err)
	}
}
