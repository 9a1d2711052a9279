package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// quick makes failures come back at once.
var quick = queue.Config{Lease: queue.LeaseConfig{Backoff: time.Millisecond, MaxBackoff: time.Millisecond, MaxFailures: 2, MaxCrashes: 2, PollInterval: 50 * time.Millisecond}}

func TestPoisonRecordStandsAlone(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		l := newLedger()
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 30)...))
		var root string
		for {
			b, err := leaseOrEmpty(t, q, queue.LeaseOptions{Settle: l.settle})
			if errors.Is(err, queue.ErrEmpty) {
				break
			}
			must(t, err)
			if root == "" {
				root = b.ID
			}
			if b.Root != root || string(b.Payloads[0]) != fmt.Sprint(b.Offset) {
				t.Fatalf("place %s+%d holds %s", b.Root, b.Offset, b.Payloads[0])
			}
			if slices.Contains(texts(b.Payloads), "17") {
				must(t, q.Release(ctx, b, queue.ReleaseOptions{Failure: "17 is not available"}))
				continue
			}
			if l.promote(b) != queue.FatePromoted {
				t.Fatal("a batch was delivered that is void")
			}
			_, err = q.Ack(ctx, b.ID)
			must(t, err)
		}
		dead, next, err := q.DeadLetters(ctx, "", 10)
		must(t, err)
		if len(dead) != 1 || next != "" {
			t.Fatalf("%d dead, next %q", len(dead), next)
		}
		d := dead[0]
		// 30 → 6 of 5 → 3 of about 2 → 1 or 2 of 1.
		if string(d.Payload) != "17" || d.Reason != "17 is not available" || d.Root != root || d.Offset != 17 || d.Failures != 2 ||
			d.Attempts < 6 || d.FirstSeen.IsZero() || d.Died.Before(d.FirstSeen) {
			t.Fatalf("%+v", d)
		}
		for i := range 30 {
			if want := map[bool]int{true: 0, false: 1}[i == 17]; l.times[fmt.Sprint(i)] != want {
				t.Fatalf("record %d was promoted %d times", i, l.times[fmt.Sprint(i)])
			}
		}
		if s := books(t, q); s.Acked != 29 || s.Dead != 1 || s.Splits < 3 {
			t.Fatalf("%+v", s)
		}
	})
}

// A record that kills its worker is found by the leases that run out.
func TestKillerRecordStandsAlone(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		l := newLedger()
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 9)...))
		for {
			b, err := leaseOrEmpty(t, q, queue.LeaseOptions{Settle: l.settle, Duration: 30 * time.Millisecond})
			if errors.Is(err, queue.ErrEmpty) {
				break
			}
			must(t, err)
			if slices.Contains(texts(b.Payloads), "4") {
				continue // dead
			}
			must(t, q.Extend(ctx, b, time.Minute))
			_, err = q.Ack(ctx, b.ID)
			must(t, err)
		}
		dead, _, err := q.DeadLetters(ctx, "", 10)
		must(t, err)
		if len(dead) != 1 || string(dead[0].Payload) != "4" || !strings.Contains(dead[0].Reason, "expired 2 times") || dead[0].Crashes != 2 {
			t.Fatalf("%+v", dead)
		}
	})
}

// A worker that was asleep wakes up after its batch was split, and puts it through as if nothing
// had happened.
func TestParentIsVoidBeforeItIsSplit(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		l := newLedger()
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 6)...))
		var sleeper *queue.Batch
		for range 2 {
			sleeper = lease(t, q, queue.LeaseOptions{Duration: 5 * time.Millisecond})
		}
		child := lease(t, q, queue.LeaseOptions{Settle: l.settle}) // splits
		if child.Root != sleeper.ID || child.ID == sleeper.ID {
			t.Fatalf("%+v", child)
		}
		if l.promote(sleeper) == queue.FatePromoted {
			t.Error("the parent went through after its split")
		}
		wantErr(t, q.Handoff(ctx, sleeper), queue.ErrLeaseLost)
		for {
			if l.promote(child) != queue.FatePromoted {
				t.Fatal("child is void")
			}
			_, err := q.Ack(ctx, child.ID)
			must(t, err)
			if child, err = q.TryLease(ctx, queue.LeaseOptions{Settle: l.settle}); err != nil {
				wantErr(t, err, queue.ErrEmpty)
				break
			}
		}
		for r, n := range l.times {
			if n != 1 {
				t.Errorf("record %s was promoted %d times", r, n)
			}
		}
		if s := books(t, q); len(l.times) != 6 || s.Acked != 6 {
			t.Fatalf("%d records promoted: %+v", len(l.times), s)
		}
	})
}

func TestPromotedBatchIsNotSplit(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		l := newLedger()
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 6)...))
		for range 2 {
			b := lease(t, q, queue.LeaseOptions{})
			l.promote(b) // its hand-off and ack are lost
			must(t, q.Release(ctx, b, queue.ReleaseOptions{Failure: "reply lost"}))
		}
		_, err := leaseOrEmpty(t, q, queue.LeaseOptions{Settle: l.settle})
		wantErr(t, err, queue.ErrEmpty)
		if s := books(t, q); s.Acked != 6 || s.Splits != 0 || s.InFlight != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

// leaseOrEmpty waits for what is backing off or leased; ErrEmpty: there is nothing that will ever
// come.
func leaseOrEmpty(t *testing.T, q *queue.Queue, o queue.LeaseOptions) (*queue.Batch, error) {
	t.Helper()
	for range 1000 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		b, err := q.Lease(ctx, o)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			return b, err
		}
		s, err := q.Stats(t.Context())
		must(t, err)
		if s.LeasedBatches+s.WaitingBatches+s.Ready == 0 {
			return nil, queue.ErrEmpty
		}
	}
	t.Fatal("nothing comes")
	return nil, nil
}

func TestSettleErrorLeavesTheBatch(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		l := newLedger()
		ctx := t.Context()
		must(t, q.Push(ctx, []byte("bad")))
		refuseTwice(t, q)
		l.err = errors.New("no Postgres")
		for range 3 {
			lctx, cancel := context.WithTimeout(ctx, time.Minute)
			_, err := q.Lease(lctx, queue.LeaseOptions{Settle: l.settle})
			cancel()
			wantErr(t, err, l.err)
		}
		if s := books(t, q); s.Dead != 0 || s.InFlight != 1 || s.WaitingBatches != 1 {
			t.Fatalf("%+v", s)
		}
		l.err = nil
		_, err := leaseOrEmpty(t, q, queue.LeaseOptions{Settle: l.settle})
		wantErr(t, err, queue.ErrEmpty)
		if s := books(t, q); s.Dead != 1 || s.InFlight != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

func TestUndoGoesWithAckAndBurial(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		ctx := t.Context()
		key := "{" + q.Name() + "}:claims"
		set := func(value string) { must(t, c.Do(ctx, c.B().Set().Key(key).Value(value).Build()).Error()) }
		get := func() string {
			s, _ := c.Do(ctx, c.B().Get().Key(key).Build()).ToString()
			return s
		}
		must(t, q.Push(ctx, records(0, 2)...))
		a := lease(t, q, queue.LeaseOptions{Records: 1})
		set("..mine..theirs")
		mine := queue.Undo{Key: key, Offset: 2, Old: "mine", New: "--"}
		ack := queue.Ack{ID: a.ID, Undo: []queue.Undo{mine, {Key: key, Offset: 8, Old: "mine", New: "--"}, {Key: key + "-gone", Old: "mine", New: "--"}}}
		if n, err := q.AckWith(ctx, ack); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if get() != "..--ne..theirs" {
			t.Fatalf("the string is %q", get())
		}
		if n, _ := c.Do(ctx, c.B().Exists().Key(key+"-gone").Build()).AsInt64(); n != 0 {
			t.Fatal("an undo made a key")
		}
		set("..mine..") // by now it may be another's
		if n, err := q.AckWith(ctx, ack); n != 0 || err != nil || get() != "..mine.." {
			t.Fatalf("an ack that came twice undid twice: %d %v %q", n, err, get())
		}
		for _, u := range []queue.Undo{{Key: "elsewhere", Old: "f"}, {Key: key}, {Key: key, Offset: -1, Old: "f"}, {Key: key, Old: "f", New: "ff"}} {
			_, err := q.AckWith(ctx, queue.Ack{ID: "any", Undo: []queue.Undo{u}})
			wantErr(t, err, queue.ErrUndo)
		}

		refuseTwice(t, q)
		_, err := leaseOrEmpty(t, q, queue.LeaseOptions{Settle: func(context.Context, *queue.Batch) (queue.Resolution, error) {
			return queue.Resolution{Undo: []queue.Undo{mine}}, nil
		}})
		wantErr(t, err, queue.ErrEmpty)
		if s := books(t, q); s.Dead != 1 || get() != "..--ne.." {
			t.Fatalf("dead %d, claim %q", s.Dead, get())
		}
	})
}

func TestSplitDividesAnnotations(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 10)...))
		b := lease(t, q, queue.LeaseOptions{})
		must(t, c.Do(ctx, c.B().Hset().Key(b.Guard).FieldValue().FieldValue("r:dedup", "0123456789").Build()).Error())
		must(t, q.Settle(ctx, b, queue.Resolution{}))
		must(t, q.Settle(ctx, b, queue.Resolution{})) // the second does nothing
		_, err := q.Get(ctx, b.ID)
		wantErr(t, err, queue.ErrGone)
		seen := 0
		for range 4 {
			child := lease(t, q, queue.LeaseOptions{})
			if !child.Annotated {
				t.Fatal("annotation lost")
			}
			got, err := c.Do(ctx, c.B().Hget().Key(child.Guard).Field("r:dedup").Build()).ToString()
			must(t, err)
			if got != strings.Join(texts(child.Payloads), "") || child.Offset != int(child.Payloads[0][0]-'0') {
				t.Fatalf("child at %d with %v has annotation %q", child.Offset, texts(child.Payloads), got)
			}
			seen += len(child.Payloads)
		}
		if seen != 10 {
			t.Fatal(seen)
		}
		books(t, q)
	})
}

// refuseTwice brings the batch of the queue to its limit.
func refuseTwice(t *testing.T, q *queue.Queue) {
	t.Helper()
	for range 2 {
		must(t, q.Release(t.Context(), lease(t, q, queue.LeaseOptions{}), queue.ReleaseOptions{Failure: "bad"}))
	}
}

// A batch that comes twice in one call is acknowledged once.
func TestAckOfOneBatchTwice(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 5)...))
		a, b := lease(t, q, queue.LeaseOptions{Records: 2}), lease(t, q, queue.LeaseOptions{Records: 2})
		must(t, q.Handoff(ctx, a))
		n, err := q.Ack(ctx, a.ID, b.ID, a.ID, b.ID, b.ID)
		must(t, err)
		if n != 2 {
			t.Errorf("acknowledged: got %d batches, want 2", n)
		}
		if s := books(t, q); s.Acked != 4 || s.InFlight != 0 || s.HandedOff != 0 {
			t.Errorf("got %+v, want 4 records acknowledged and none in flight", s)
		}
	})
}

// overtaken is a client before whose next single script something else happens.
type overtaken struct {
	rueidis.Client
	by func(script func() rueidis.RedisResult) rueidis.RedisResult
}

func (c *overtaken) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	by := c.by
	if name := cmd.Commands()[0]; by == nil || name != "EVALSHA" && name != "EVAL" {
		return c.Client.Do(ctx, cmd)
	}
	c.by = nil
	return by(func() rueidis.RedisResult { return c.Client.Do(ctx, cmd) })
}

// Without a ledger only the holder of the settling lease splits a batch: one that slept past its
// lease leaves it to the next holder.
func TestSettlingLeaseIsFenced(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		client, cfg, ctx := &overtaken{Client: c}, quick, t.Context()
		cfg.Lease.MaxFailures = 1
		q := open(t, client, cfg)
		other := openAs(t, c, q.Name(), cfg)
		must(t, q.Push(ctx, records(4, 5)...))
		must(t, other.Settle(ctx, lease(t, q, queue.LeaseOptions{}), queue.Resolution{})) // the server knows the scripts then
		must(t, q.Push(ctx, records(0, 4)...))
		b := lease(t, other, queue.LeaseOptions{})
		must(t, other.Release(ctx, b, queue.ReleaseOptions{Failure: "bad"}))
		overtook := errors.New("another holder")
		client.by = func(split func() rueidis.RedisResult) (late rueidis.RedisResult) {
			servertest.Eventually(t, "the settling lease expires", func() bool {
				_, err := other.TryLease(ctx, queue.LeaseOptions{Settle: func(_ context.Context, again *queue.Batch) (queue.Resolution, error) {
					late = split()
					if _, err := other.Get(ctx, again.ID); err != nil {
						t.Errorf("the batch of the new holder: %v", err)
					}
					return queue.Resolution{}, overtook
				}})
				return errors.Is(err, overtook)
			})
			return late
		}
		servertest.Eventually(t, "the first holder settles the batch", func() bool {
			_, err := q.TryLease(ctx, queue.LeaseOptions{Duration: time.Millisecond})
			if err != nil && !errors.Is(err, queue.ErrEmpty) {
				t.Errorf("got %v, want no error: another process settles the batch", err)
			}
			return client.by == nil
		})
	})
}

// A batch is never split into more parts than it has records: a part without records would never be
// delivered. A caller who passes other records than the queue holds gets an error.
func TestSplitIntoMorePartsThanRecords(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 3)...))
		b := lease(t, q, queue.LeaseOptions{})
		larger := *b
		larger.Payloads = records(0, 100)
		if err := q.Settle(ctx, &larger, queue.Resolution{}); err == nil {
			t.Error("3 records were split into 10 parts")
		}
		got, err := q.Get(ctx, b.ID)
		must(t, err)
		if !slices.Equal(texts(got.Payloads), texts(b.Payloads)) {
			t.Errorf("got records %q, want %q", texts(got.Payloads), texts(b.Payloads))
		}
		if a, err := q.Audit(ctx); err != nil || a.Balanced() != nil {
			t.Errorf("got %v, %v, want a sound queue", a.Differences, err)
		}
	})
}
