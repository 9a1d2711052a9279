package queue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

func TestMain(m *testing.M) {
	if os.Getenv(envWorker) != "" {
		work() // a child of TestKilledWorkers
		return
	}
	servertest.Main(m)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func open(t testing.TB, c rueidis.Client, cfg queue.Config) *queue.Queue {
	t.Helper()
	return openAs(t, c, servertest.Prefix(t), cfg)
}

func openAs(t testing.TB, c rueidis.Client, name string, cfg queue.Config) *queue.Queue {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	q, err := queue.New(t.Context(), c, name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func records(from, to int) [][]byte {
	var out [][]byte
	for i := from; i < to; i++ {
		out = append(out, []byte(strconv.Itoa(i)))
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func lease(t testing.TB, q *queue.Queue, o queue.LeaseOptions) *queue.Batch {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := q.Lease(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func texts(payloads [][]byte) []string {
	out := []string{}
	for _, p := range payloads {
		out = append(out, string(p))
	}
	return out
}

func wantPayloads(t testing.TB, b *queue.Batch, want [][]byte) {
	t.Helper()
	if !slices.Equal(texts(b.Payloads), texts(want)) {
		t.Fatalf("batch holds %v, want %v", texts(b.Payloads), texts(want))
	}
}

// books checks the promise and what Audit counts.
func books(t testing.TB, q *queue.Queue) queue.Stats {
	t.Helper()
	s, err := q.Stats(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if s.Imbalance() != 0 {
		t.Fatalf("the books are off by %d: %+v", s.Imbalance(), s)
	}
	a, err := q.Audit(context.WithoutCancel(t.Context()))
	if err != nil || len(a.Differences) > 0 {
		t.Fatalf("audit: %v %v", a.Differences, err)
	}
	return s
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func TestLeaseInOrderAndAck(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{Push: queue.PushConfig{Chunk: 7}})
		ctx := t.Context()
		_, err := q.TryLease(ctx, queue.LeaseOptions{})
		wantErr(t, err, queue.ErrEmpty)
		must(t, q.Push(ctx, records(0, 25)...))
		a := lease(t, q, queue.LeaseOptions{Records: 10})
		b := lease(t, q, queue.LeaseOptions{Records: 10})
		d := lease(t, q, queue.LeaseOptions{Records: 10})
		wantPayloads(t, a, records(0, 10))
		wantPayloads(t, b, records(10, 20))
		wantPayloads(t, d, records(20, 25))
		if a.Root != a.ID || a.Attempt != 1 || a.Deadline.Before(a.Sealed) || a.Bytes != 10 {
			t.Fatalf("%+v", a)
		}
		if s := books(t, q); s.InFlight != 25 || s.Taken != 25 || s.LeasedBatches != 3 {
			t.Fatalf("%+v", s)
		}
		must(t, q.Handoff(ctx, b))
		n, err := q.Ack(ctx, a.ID, b.ID, d.ID, "none")
		if err != nil || n != 3 {
			t.Fatal(n, err)
		}
		n, err = q.Ack(ctx, a.ID)
		if err != nil || n != 0 {
			t.Fatal(n, err)
		}
		if s := books(t, q); s.Acked != 25 || s.InFlight != 0 || s.HandedOff != 0 || s.LeasedBatches != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

func TestBatchIsBoundedByBytes(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{})
		ctx := t.Context()
		var in [][]byte
		for i := range 400 {
			in = append(in, fmt.Appendf(nil, "%0*d", 1+(i*i*37)%2000, i)) // from 1 to 2,000 bytes
		}
		in = append(in, make([]byte, 50_000), []byte("after"))
		must(t, q.Push(ctx, in...))
		var out []string
		for {
			b, err := q.TryLease(ctx, queue.LeaseOptions{Records: 100, Bytes: 20_000})
			if errors.Is(err, queue.ErrEmpty) {
				break
			}
			must(t, err)
			if b.Bytes > 20_000 && len(b.Payloads) > 1 {
				t.Fatalf("batch of %d records with %d bytes", len(b.Payloads), b.Bytes)
			}
			out = append(out, texts(b.Payloads)...)
		}
		if !slices.Equal(out, texts(in)) {
			t.Fatal("records are lost or out of order")
		}
		books(t, q)
	})
}

func TestStaleWorkerIsFencedOff(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{Lease: queue.LeaseConfig{Backoff: time.Millisecond}})
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 3)...))
		old := lease(t, q, queue.LeaseOptions{Duration: 20 * time.Millisecond})
		now := lease(t, q, queue.LeaseOptions{}) // waits until the lease has run out
		if now.ID != old.ID || now.Attempt != 2 || now.Crashes != 1 || now.Failures != 0 {
			t.Fatalf("%+v", now)
		}
		wantPayloads(t, now, records(0, 3))
		wantErr(t, q.Extend(ctx, old, time.Minute), queue.ErrLeaseLost)
		wantErr(t, q.Release(ctx, old, queue.ReleaseOptions{}), queue.ErrLeaseLost)
		wantErr(t, q.Handoff(ctx, old), queue.ErrLeaseLost)
		must(t, q.Extend(ctx, now, time.Minute))
		must(t, q.Handoff(ctx, now))
		wantErr(t, q.Extend(ctx, now, time.Minute), queue.ErrLeaseLost)
		wantErr(t, q.Release(ctx, now, queue.ReleaseOptions{}), queue.ErrLeaseLost)
		if n, err := q.Ack(ctx, old.ID); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		wantErr(t, q.Handoff(ctx, now), queue.ErrLeaseLost)
		books(t, q)
	})
}

func TestReleaseAndRedeliveryBeforeFresh(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{Lease: queue.LeaseConfig{Backoff: time.Hour, MaxBackoff: time.Hour}})
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 4)...))
		a := lease(t, q, queue.LeaseOptions{Records: 2})
		must(t, q.Release(ctx, a, queue.ReleaseOptions{}))
		b := lease(t, q, queue.LeaseOptions{Records: 2})
		if b.ID != a.ID || b.Failures != 0 || b.Crashes != 0 {
			t.Fatalf("%+v", b)
		}
		must(t, q.Release(ctx, b, queue.ReleaseOptions{Failure: "no such product"}))
		fresh := lease(t, q, queue.LeaseOptions{Records: 2}) // the other one is backing off
		if fresh.ID == a.ID {
			t.Fatal("delivered again without backoff")
		}
		redo := "{" + q.Name() + "}:queue:redo"
		must(t, c.Do(ctx, c.B().Zadd().Key(redo).Xx().ScoreMember().ScoreMember(1, a.ID).Build()).Error()) // the time has passed
		b = lease(t, q, queue.LeaseOptions{})
		if b.ID != a.ID || b.Failures != 1 || b.Reason != "no such product" {
			t.Fatalf("%+v", b)
		}
		must(t, q.Release(ctx, b, queue.ReleaseOptions{Delay: time.Hour}))
		_, err := q.TryLease(ctx, queue.LeaseOptions{})
		wantErr(t, err, queue.ErrEmpty)
		if s := books(t, q); s.WaitingBatches != 1 || s.Redelivered != 4 {
			t.Fatalf("%+v", s)
		}
	})
}
