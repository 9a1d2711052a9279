package queue_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// waiting starts a consumer.
func waiting(ctx context.Context, q *queue.Queue, o queue.LeaseOptions) <-chan result {
	out := make(chan result, 1)
	go func() {
		b, err := q.Lease(ctx, o)
		out <- result{b, err}
	}()
	return out
}

type result struct {
	b   *queue.Batch
	err error
}

// A push wakes a consumer that would poll only a minute later.
func TestPushWakesAWaitingConsumer(t *testing.T) {
	t.Parallel()
	c := &peekClient{Client: servertest.Redis(t), peeks: make(chan struct{}, 100)}
	q := open(t, c, queue.Config{Lease: queue.LeaseConfig{PollInterval: time.Minute}})
	for range 20 {
		ch := waiting(t.Context(), q, queue.LeaseOptions{})
		<-c.peeks
		must(t, q.Push(t.Context(), []byte("x")))
		select {
		case l := <-ch:
			must(t, l.err)
			_, err := q.Ack(t.Context(), l.b.ID)
			must(t, err)
		case <-time.After(30 * time.Second):
			t.Fatal("the consumer was not woken")
		}
	}
}

// peekClient reports each blocking command before it is sent.
type peekClient struct {
	rueidis.Client
	peeks chan struct{}
}

func (c *peekClient) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	if cmd.Commands()[0] == "BLMOVE" {
		c.peeks <- struct{}{}
	}
	return c.Client.Do(ctx, cmd)
}

func blocked(t *testing.T, c rueidis.Client) int {
	t.Helper()
	s, err := c.Do(t.Context(), c.B().Info().Section("clients").Build()).ToString()
	must(t, err)
	n := 0
	if i := indexAfter(s, "blocked_clients:"); i >= 0 {
		for ; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
			n = n*10 + int(s[i]-'0')
		}
	}
	return n
}

func indexAfter(s, what string) int {
	for i := 0; i+len(what) <= len(s); i++ {
		if s[i:i+len(what)] == what {
			return i + len(what)
		}
	}
	return -1
}

func untilBlocked(t *testing.T, c rueidis.Client, n int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); blocked(t, c) < n; {
		if time.Now().After(end) {
			t.Fatal("no consumer blocks")
		}
	}
}

// A consumer that goes away while it waits must not take a record with it: neither what comes the
// moment after, nor what comes while its connection still blocks at the server.
func TestWaitingConsumerTakesNothingAlong(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t)
	c := s.Client(t)
	q := open(t, c, queue.Config{})
	for i := range 30 {
		ctx, cancel := context.WithCancel(t.Context())
		ch := waiting(ctx, q, queue.LeaseOptions{})
		untilBlocked(t, c, 1)
		if i%2 == 0 {
			cancel()
			must(t, q.Push(t.Context(), []byte("x"))) // the server may not have heard yet
		} else {
			go cancel()
			must(t, q.Push(t.Context(), []byte("x")))
		}
		l := <-ch
		if l.b == nil {
			wantErr(t, l.err, context.Canceled)
			var err error
			if l.b, err = q.TryLease(t.Context(), queue.LeaseOptions{}); err != nil {
				t.Fatalf("round %d: the record is gone: %v", i, err)
			}
		}
		cancel()
		if len(l.b.Payloads) != 1 || l.b.Attempt != 1 {
			t.Fatalf("%+v", l.b)
		}
		_, err := q.Ack(t.Context(), l.b.ID)
		must(t, err)
		books(t, q)
	}
}

// A waiting consumer whose connection the server kills takes no record with it.
func TestKilledConnectionOfAWaitingConsumer(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t)
	c := s.Client(t)
	q := open(t, c, queue.Config{})
	ctx := t.Context()
	must(t, q.Pause(ctx))
	must(t, q.Resume(ctx))
	ch := waiting(ctx, q, queue.LeaseOptions{})
	untilBlocked(t, c, 1)
	must(t, c.Do(ctx, c.B().ClientKill().TypeNormal().SkipmeYes().Build()).Error())
	for r := range 3 {
		must(t, pushUntil(ctx, q, []byte{byte('a' + r)}))
	}
	l := <-ch
	n := 0
	if l.b != nil {
		n = len(l.b.Payloads)
	}
	if st := books(t, q); int(st.Ready)+n != 3 || int(st.Taken) != n {
		t.Fatalf("%d leased, %+v", n, st)
	}
}

// pushUntil tries again while connections are being killed.
func pushUntil(ctx context.Context, q *queue.Queue, p []byte) error {
	for {
		err := q.Push(ctx, p)
		var pe *queue.PushError
		if err == nil || !errors.As(err, &pe) || ctx.Err() != nil {
			return err
		}
	}
}

func TestWakesForExpiryAndDelayedRecords(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		// A consumer that missed the time would poll only a minute later.
		q := open(t, c, queue.Config{Lease: queue.LeaseConfig{Backoff: time.Millisecond, PollInterval: time.Minute}})
		ctx := t.Context()
		must(t, q.PushAt(ctx, time.Now().Add(150*time.Millisecond), records(0, 5)...))
		if s := books(t, q); s.Delayed+s.Ready != 5 || s.Depth() != 5 {
			t.Fatalf("got %+v, want a depth of 5", s)
		}
		b := lease(t, q, queue.LeaseOptions{Duration: 100 * time.Millisecond})
		wantPayloads(t, b, records(0, 5))
		if s := books(t, q); s.Delayed != 0 {
			t.Fatalf("got %d delayed, want 0", s.Delayed)
		}
		if again := lease(t, q, queue.LeaseOptions{}); again.ID != b.ID {
			t.Fatalf("got batch %s, want the expired one, %s", again.ID, b.ID)
		}
	})
}

func TestLingerFillsABatch(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{})
		ctx := t.Context()
		// Full long before the time is over.
		must(t, q.Push(ctx, records(0, 3)...))
		ch := waiting(ctx, q, queue.LeaseOptions{Records: 20, Linger: 8 * time.Second})
		must(t, q.Push(ctx, records(3, 10)...))
		must(t, q.Push(ctx, records(10, 20)...))
		l := <-ch
		must(t, l.err)
		wantPayloads(t, l.b, records(0, 20))
		// The queue has met records in the last hour, so the next ones linger.
		must(t, q.Push(ctx, records(0, 3)...))
		ch = waiting(ctx, q, queue.LeaseOptions{Records: 20, Linger: time.Minute, Idle: time.Hour})
		must(t, q.Push(ctx, records(3, 20)...))
		l = <-ch
		must(t, l.err)
		wantPayloads(t, l.b, records(0, 20))
		// This one has met none: its first record does not wait for others.
		must(t, q.Push(ctx, records(0, 3)...))
		idle := openAs(t, c, q.Name(), queue.Config{})
		wantPayloads(t, lease(t, idle, queue.LeaseOptions{Records: 20, Linger: time.Hour, Idle: time.Hour}), records(0, 3))
		// Not full when the time is over.
		must(t, q.Push(ctx, records(0, 3)...))
		wantPayloads(t, lease(t, q, queue.LeaseOptions{Records: 20, Linger: 100 * time.Millisecond}), records(0, 3))
	})
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 2)...))
		held := lease(t, q, queue.LeaseOptions{Records: 1})
		must(t, q.Pause(ctx))
		_, err := q.TryLease(ctx, queue.LeaseOptions{})
		wantErr(t, err, queue.ErrPaused)
		if !books(t, q).Paused {
			t.Fatal("Stats does not say paused")
		}
		must(t, q.Extend(ctx, held, time.Minute)) // what is leased goes on
		short, cancel := context.WithTimeout(ctx, 120*time.Millisecond)
		defer cancel()
		_, err = q.Lease(short, queue.LeaseOptions{})
		wantErr(t, err, context.DeadlineExceeded)
		ch := waiting(ctx, q, queue.LeaseOptions{})
		must(t, q.Resume(ctx))
		l := <-ch
		must(t, l.err)
		wantPayloads(t, l.b, records(1, 2))
	})
}

// Many consumers of one process wait, few records come: each goes to one of them, and none stays
// behind.
func TestManyWaitingConsumers(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		got := map[string]int{}
		done := make(chan struct{})
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for {
					b, err := q.Lease(ctx, queue.LeaseOptions{Records: 3})
					if err != nil {
						return
					}
					if _, err := q.Ack(t.Context(), b.ID); err != nil {
						t.Error(err)
					}
					mu.Lock()
					for _, p := range b.Payloads {
						got[string(p)]++
					}
					if len(got) == 200 {
						close(done)
					}
					mu.Unlock()
				}
			})
		}
		for i := range 200 {
			must(t, q.Push(ctx, records(i, i+1)...))
		}
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Error("not all came")
		}
		cancel()
		wg.Wait()
		for r, n := range got {
			if n != 1 {
				t.Errorf("record %s came %d times", r, n)
			}
		}
	})
}

// sealers counts the leases that are asked for.
type sealers struct {
	rueidis.Client
	asked atomic.Int64
}

func (c *sealers) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	if cmds[0].Commands()[0] == "EVALSHA" {
		c.asked.Add(1)
	}
	return c.Client.DoMulti(ctx, cmds...)
}

// Dozens of consumers ask a frozen server for large batches, and give up. Only a few of them ask at
// a time; afterwards all have a turn again.
func TestManyConsumersGiveUp(t *testing.T) {
	t.Parallel()
	p := redisxtest.NewProxy(t, servertest.RedisURL(t))
	c := &sealers{Client: p.Client(t, nil)}
	q := open(t, c, queue.Config{})
	const consumers, atATime = 40, 8
	must(t, q.Push(t.Context(), records(0, consumers*1000)...))
	must(t, q.Pause(t.Context())) // the script is known to the server then
	_, err := q.TryLease(t.Context(), queue.LeaseOptions{})
	wantErr(t, err, queue.ErrPaused)
	must(t, q.Resume(t.Context()))
	before := c.asked.Load()
	p.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var all []<-chan result
	for range consumers {
		all = append(all, waiting(ctx, q, queue.LeaseOptions{Records: 1000, Duration: time.Millisecond}))
	}
	for _, ch := range all {
		if l := <-ch; l.err == nil {
			t.Errorf("a frozen server gave %d records", len(l.b.Payloads))
		}
	}
	if n := c.asked.Load() - before; n > atATime {
		t.Errorf("%d consumers asked at a time, want at most %d", n, atATime)
	}
	p.Thaw()
	all = nil
	for range consumers {
		all = append(all, waiting(t.Context(), q, queue.LeaseOptions{Records: 1000}))
	}
	seen := 0
	for _, ch := range all {
		l := <-ch
		must(t, l.err)
		seen += len(l.b.Payloads)
	}
	if st := books(t, q); seen != consumers*1000 || st.InFlight != int64(seen) {
		t.Fatalf("got %d records, want %d in flight; books %+v", seen, consumers*1000, st)
	}
}

// A consumer that lingers for a large batch, and one that settles for long, hold back no other one
// of their process.
func TestOthersAreNotHeldBack(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, quick)
		ctx := t.Context()
		forAWhile, cancel := context.WithCancel(ctx)
		defer cancel()
		lingering := waiting(forAWhile, q, queue.LeaseOptions{Records: 1000, Linger: time.Hour})
		for i := range 5 {
			ch := waiting(ctx, q, queue.LeaseOptions{Records: 1})
			must(t, q.Push(ctx, records(i, i+1)...))
			l := <-ch // hangs if the other one holds it back
			must(t, l.err)
			wantPayloads(t, l.b, records(i, i+1))
			_, err := q.Ack(ctx, l.b.ID)
			must(t, err)
		}
		cancel()
		if l := <-lingering; l.b != nil || !errors.Is(l.err, context.Canceled) {
			t.Errorf("the lingering consumer: got %v, %v, want the error of its context", l.b, l.err)
		}
		// One that settles a batch.
		must(t, q.Push(ctx, records(9, 10)...))
		for range 2 {
			must(t, q.Release(ctx, lease(t, q, queue.LeaseOptions{Records: 1}), queue.ReleaseOptions{Failure: "bad"}))
		}
		settles, settled := make(chan struct{}), make(chan struct{})
		slow := waiting(ctx, q, queue.LeaseOptions{Records: 1, Settle: func(context.Context, *queue.Batch) (queue.Resolution, error) {
			close(settles)
			<-settled
			return queue.Resolution{}, nil
		}})
		<-settles
		ch := waiting(ctx, q, queue.LeaseOptions{Records: 1})
		must(t, q.Push(ctx, records(20, 21)...))
		l := <-ch
		must(t, l.err)
		wantPayloads(t, l.b, records(20, 21))
		close(settled)
		must(t, q.Push(ctx, records(30, 31)...))
		l = <-slow
		must(t, l.err)
		wantPayloads(t, l.b, records(30, 31))
	})
}
