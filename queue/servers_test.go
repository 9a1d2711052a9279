package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

func config(t *testing.T, c rueidis.Client, name, value string) {
	t.Helper()
	must(t, c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue(name, value).Build()).Error())
}

// An address leads to another server after a planned failover, and the old one stays there as a
// replica. Every call recovers without a restart, also a consumer that waits.
func TestFailoverBehindOneAddress(t *testing.T) {
	t.Parallel()
	was, is := servertest.OwnRedis(t), servertest.OwnRedis(t)
	p := redisxtest.NewProxy(t, was.URL)
	q := open(t, p.Client(t, nil), quick)
	bounded := openAs(t, p.Client(t, nil), q.Name(), queue.Config{Push: queue.PushConfig{MaxDepth: 1000}})
	ctx := t.Context()
	must(t, q.Push(ctx, records(0, 1)...))
	before := lease(t, q, queue.LeaseOptions{Duration: time.Hour})
	old := was.Client(t)
	ch := waiting(ctx, q, queue.LeaseOptions{})
	untilBlocked(t, old, 1)
	must(t, old.Do(ctx, old.B().Arbitrary("REPLICAOF", "127.0.0.1", "1").Build()).Error())
	p.Point(t, is.URL)
	for what, f := range map[string]func() error{
		"push":    func() error { return q.Push(ctx, []byte("plain")) },
		"bounded": func() error { return bounded.Push(ctx, []byte("bounded")) },
		"large":   func() error { return bounded.Push(ctx, records(0, 200)...) },
		"delayed": func() error { return q.PushAt(ctx, time.Now(), []byte("delayed")) },
		"ack":     func() error { _, err := q.Ack(ctx, before.ID); return err },
		"stats":   func() error { _, err := q.Stats(ctx); return err },
		"pause":   func() error { return q.Resume(ctx) },
	} {
		if !servertest.Eventually(t, what+" after the failover", func() bool { return f() == nil }) {
			t.Errorf("%s: %v", what, f())
		}
	}
	l := <-ch
	if errors.Is(l.err, io.EOF) { // a script of it was on its way when the connection broke
		_, l.err = q.Lease(ctx, queue.LeaseOptions{})
	}
	if l.err != nil {
		t.Errorf("the consumer that waited: %v", l.err)
	}
	if err := q.Extend(ctx, before, time.Hour); !errors.Is(err, queue.ErrLeaseLost) {
		t.Errorf("extend of a batch that the new server never had: got %v, want %v", err, queue.ErrLeaseLost)
	}
	books(t, q)
}

// A consumer that opens its queue while the server refuses writes, and lives to see it full.
func TestOpenedDuringARefusal(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t).Client(t)
	name := servertest.Prefix(t)
	config(t, c, "min-replicas-to-write", "1")
	opened := make(chan *queue.Queue, 1)
	go func() {
		q, err := queue.New(context.WithoutCancel(t.Context()), c, name, queue.Config{Logger: quiet})
		if err != nil {
			t.Error(err)
		}
		opened <- q
	}()
	config(t, c, "min-replicas-to-write", "0")
	q := <-opened
	must(t, q.Push(t.Context(), records(0, 3)...))
	config(t, c, "min-replicas-to-write", "1")
	pushed := make(chan error, 1)
	go func() { pushed <- q.Push(context.WithoutCancel(t.Context()), records(3, 4)...) }()
	config(t, c, "min-replicas-to-write", "0")
	if err := <-pushed; err != nil {
		t.Errorf("push during a refusal that ends: %v", err)
	}
	config(t, c, "maxmemory", "1")
	wantPayloads(t, lease(t, q, queue.LeaseOptions{}), records(0, 4))
}

// A client that reads from replicas which know nothing yet: no decision rests on them.
func TestReplicaReads(t *testing.T) {
	t.Parallel()
	primary, replica := servertest.OwnRedis(t), servertest.OwnRedis(t)
	o := redisxtest.Options(t, primary.URL)
	o.Standalone.ReplicaAddress = []string{redisxtest.SamePassword(t, replica.URL, primary.URL)}
	o.SendToReplicas = func(cmd rueidis.Completed) bool { return cmd.IsReadOnly() }
	c, err := rueidis.NewClient(o)
	must(t, err)
	t.Cleanup(c.Close)
	cfg := quick
	cfg.Lease.MaxFailures = 1
	q := openAs(t, c, "replica", cfg)
	ctx := t.Context()
	must(t, q.Push(ctx, records(0, 64)...))
	l := newLedger()
	for {
		b, err := leaseOrEmpty(t, q, queue.LeaseOptions{Records: 16, Settle: l.settle})
		if errors.Is(err, queue.ErrEmpty) {
			break
		}
		must(t, err)
		if slices.Contains(texts(b.Payloads), "5") {
			must(t, q.Release(ctx, b, queue.ReleaseOptions{Failure: "5 is bad"}))
			continue
		}
		got, err := q.Get(ctx, b.ID)
		must(t, err)
		wantPayloads(t, got, b.Payloads)
		must(t, q.Handoff(ctx, b))
		if h, err := q.HandedOff(ctx); err != nil || len(h) != 1 {
			t.Fatalf("handed off: got %v, %v, want one batch", h, err)
		}
		l.promote(b)
		_, err = q.Reconcile(ctx, l.known, l.settle)
		must(t, err)
	}
	dead, _, err := q.DeadLetters(ctx, "", 100)
	must(t, err)
	if s := books(t, q); len(dead) != 1 || string(dead[0].Payload) != "5" || s.Acked != 63 {
		t.Errorf("got dead letters %v and %d acked, want 5 alone and 63", dead, s.Acked)
	}
	if n, err := q.RequeueAll(ctx); n != 1 || err != nil {
		t.Errorf("requeued %d, %v, want 1", n, err)
	}
}

// Consumers that wait in short steps keep their connections.
func TestShortWaitsKeepTheirConnections(t *testing.T) {
	t.Parallel()
	p := redisxtest.NewProxy(t, servertest.OwnRedis(t).URL)
	q := open(t, p.Client(t, nil), queue.Config{})
	short := func(cancelled bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		if cancelled {
			var stop context.CancelFunc
			ctx, stop = context.WithCancel(t.Context())
			time.AfterFunc(5*time.Millisecond, stop)
		}
		if _, err := q.Lease(ctx, queue.LeaseOptions{}); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the error of the context", err)
		}
	}
	for range 20 { // the client dials its connections
		short(false)
	}
	before := p.Accepted()
	for i := range 100 {
		short(i%2 == 1)
	}
	// One whose wait ends in the moment in which it is cancelled may be lost.
	if n := p.Accepted() - before; n > 20 {
		t.Errorf("100 short waits took %d connections, want a few at most", n)
	}
}

// A push whose context ends while the server is frozen: its buffers are the caller's again, and
// what reaches the server later is what was pushed, also after other pushes of the process.
func TestBuffersAreTheCallersAgain(t *testing.T) {
	t.Parallel()
	p := redisxtest.NewProxy(t, servertest.RedisURL(t))
	c := p.Client(t, nil)
	cfg := queue.Config{Push: queue.PushConfig{Chunk: 50}}
	other := open(t, servertest.Redis(t), cfg)
	for what, push := range map[string]func(q *queue.Queue, ctx context.Context, payloads [][]byte) error{
		"push": func(q *queue.Queue, ctx context.Context, payloads [][]byte) error { return q.Push(ctx, payloads...) },
		"delayed": func(q *queue.Queue, ctx context.Context, payloads [][]byte) error {
			return q.PushAt(ctx, time.Now(), payloads...)
		},
	} {
		q := open(t, c, cfg)
		payloads := make([][]byte, 5000)
		for i := range payloads {
			payloads[i] = bytes.Repeat([]byte("A"), 2000)
		}
		p.Freeze()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := push(q, ctx, payloads)
		cancel()
		if err == nil {
			t.Errorf("%s: a frozen server has answered", what)
		}
		for _, b := range payloads {
			copy(b, bytes.Repeat([]byte("B"), len(b)))
		}
		must(t, other.Push(t.Context(), payloads...))
		p.Thaw()
		servertest.Eventually(t, "the server answers", func() bool { _, err := q.Stats(t.Context()); return err == nil })
		for {
			b, err := q.TryLease(t.Context(), queue.LeaseOptions{})
			if errors.Is(err, queue.ErrEmpty) {
				break
			}
			must(t, err)
			for _, r := range b.Payloads {
				if n := bytes.Count(r, []byte("A")); n != len(r) {
					t.Fatalf("%s: a record has %d of %d bytes as pushed", what, n, len(r))
				}
			}
		}
	}
}

// counted is a client that keeps the largest of the commands that it sends.
type counted struct {
	rueidis.Client
	values int // of one LPUSH or LPUSHX
}

func (c *counted) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	for _, cmd := range cmds {
		if args := cmd.Commands(); strings.HasPrefix(args[0], "LPUSH") {
			c.values = max(c.values, len(args)-2)
		}
	}
	return c.Client.DoMulti(ctx, cmds...)
}

// However long a push is, and whatever is checked, no command carries more than a chunk, so none
// holds the server for long.
func TestNoCommandOfALargePushIsLarge(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, inner rueidis.Client) {
		const n = 2000
		c := &counted{Client: inner}
		q := open(t, c, queue.Config{Push: queue.PushConfig{MaxDepth: 10 * n}})
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, n)...))
		must(t, q.PushAt(ctx, time.Now().Add(time.Hour), records(0, n)...))
		if s := books(t, q); s.Ready != n || s.Delayed != n || s.Reserved != 0 {
			t.Errorf("got %+v, want %d ready and delayed, none reserved", s, n)
		}
		if c.values > queue.DefaultChunk {
			t.Errorf("a command had %d values, want at most %d", c.values, queue.DefaultChunk)
		}
	})
}

// A lease moves no more than one step may, whatever it asks for, and reads all of it.
func TestLeaseOfTheMost(t *testing.T) {
	t.Parallel()
	q := open(t, servertest.Redis(t), queue.Config{})
	const n = 11_000
	must(t, q.Push(t.Context(), records(0, n)...))
	o := queue.LeaseOptions{Records: queue.MaxRecords}
	wantPayloads(t, lease(t, q, o), records(0, 10_000))
	b := lease(t, q, o)
	wantPayloads(t, b, records(10_000, n))
	must(t, q.Settle(t.Context(), b, queue.Resolution{}))
	books(t, q)
}

// A producer that dies in the middle of a delayed push leaves nothing forever.
func TestUnfinishedDelayedPushExpires(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, inner rueidis.Client) {
		q := open(t, dies{inner}, queue.Config{})
		ctx := t.Context()
		if err := q.PushAt(ctx, time.Now(), records(0, 1000)...); err == nil {
			t.Error("a push whose end was never sent has succeeded")
		}
		keys, err := inner.Do(ctx, inner.B().Keys().Pattern("{"+q.Name()+"}:queue:l:*").Build()).AsStrSlice()
		must(t, err)
		for _, k := range keys {
			if ttl, err := inner.Do(ctx, inner.B().Pttl().Key(k).Build()).AsInt64(); ttl <= 0 || err != nil {
				t.Errorf("key %s expires in %d ms, %v, want some time", k, ttl, err)
			}
		}
		if len(keys) == 0 {
			t.Error("the test has not cut the push in its middle")
		}
		if s := books(t, q); s.Delayed != 0 {
			t.Errorf("got %d delayed, want 0", s.Delayed)
		}
	})
}

// dies is a client whose program dies before the last command of a pipeline.
type dies struct{ rueidis.Client }

func (c dies) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	last := len(cmds) - 1
	if last > 0 && cmds[last].Commands()[0] == "EVAL" {
		out := c.Client.DoMulti(ctx, cmds[:last]...)
		return append(out, rueidis.NewResult(rueidis.RedisMessage{}, errors.New("the connection is gone")))
	}
	return c.Client.DoMulti(ctx, cmds...)
}

// A time whose Unix time in milliseconds overflows, here to 1970, is late and not past.
func TestPushAtATimeThatRedisCannotCount(t *testing.T) {
	t.Parallel()
	q := open(t, servertest.Miniredis(t), queue.Config{})
	must(t, q.PushAt(t.Context(), time.Unix(1<<62, 0), records(0, 3)...))
	if b, err := q.TryLease(t.Context(), queue.LeaseOptions{}); !errors.Is(err, queue.ErrEmpty) {
		t.Errorf("got %v, %v, want %v", b, err, queue.ErrEmpty)
	}
	if s, err := q.Stats(t.Context()); err != nil || s.Delayed != 3 {
		t.Errorf("got %+v, %v, want 3 delayed", s, err)
	}
}

// Many small delayed pushes that are due at once come in full batches, and large ones keep their
// order without being moved.
func TestDelayedPushesComeInFullBatches(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{})
		ctx := t.Context()
		const small, large = 300, 1100
		due := time.Now().Add(-time.Minute)
		for i := range small {
			must(t, q.PushAt(ctx, due, records(i, i+1)...))
		}
		b := lease(t, q, queue.LeaseOptions{Records: 200})
		if len(b.Payloads) != 200 {
			t.Errorf("got a batch of %d, want 200", len(b.Payloads))
		}
		must(t, q.PushAt(ctx, due, records(small, small+large)...))
		must(t, q.Push(ctx, records(small+large, small+large+100)...))
		seen := texts(b.Payloads)
		for {
			b, err := q.TryLease(ctx, queue.LeaseOptions{Records: 200})
			if errors.Is(err, queue.ErrEmpty) {
				break
			}
			must(t, err)
			seen = append(seen, texts(b.Payloads)...)
		}
		slices.Sort(seen)
		if n := len(slices.Compact(seen)); n != small+large+100 {
			t.Errorf("got %d different records, want %d", n, small+large+100)
		}
		if s := books(t, q); s.Delayed != 0 || s.Ready != 0 {
			t.Errorf("left over: %+v", s)
		}
	})
}

// Delayed pushes of all sizes that are due at once come in full batches too: a large one fills up
// what small ones begin.
func TestDelayedPushesOfAllSizes(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{})
		due, n := time.Now().Add(-time.Minute), 0
		for size := range 50 {
			must(t, q.PushAt(t.Context(), due, records(n, n+size+1)...))
			n += size + 1
		}
		must(t, q.Push(t.Context(), records(n, n+7)...))
		n += 7
		var seen []string
		for len(seen) < n {
			b := lease(t, q, queue.LeaseOptions{Records: 20})
			if want := min(20, n-len(seen)); len(b.Payloads) != want {
				t.Errorf("after %d records: got a batch of %d, want %d", len(seen), len(b.Payloads), want)
			}
			seen = append(seen, texts(b.Payloads)...)
		}
		slices.Sort(seen)
		if got := len(slices.Compact(seen)); got != n {
			t.Errorf("got %d different records, want %d", got, n)
		}
		if s := books(t, q); s.Delayed != 0 || s.Ready != 0 {
			t.Errorf("left over: %+v", s)
		}
	})
}

// Numbers take less memory in Redis than they have digits.
func TestBytesOfNumbers(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, digits := range []int64{1 << 61, 1 << 30, 40_000, 3000, 100} {
			q := open(t, c, queue.Config{})
			var in [][]byte
			for i := range int64(2000) {
				in = append(in, fmt.Append(nil, digits+i))
			}
			in[0], in[999], in[1000], in[1999] = []byte("1"), []byte("1"), []byte("1"), []byte("1")
			must(t, q.Push(t.Context(), in...))
			const bound = 6000
			var out [][]byte
			for len(out) < len(in) {
				b, err := q.TryLease(t.Context(), queue.LeaseOptions{Bytes: bound})
				must(t, err)
				if b.Bytes > bound {
					t.Errorf("%d: a batch bounded by %d bytes has %d in %d records", digits, bound, b.Bytes, len(b.Payloads))
				}
				out = append(out, b.Payloads...)
			}
			if !slices.Equal(texts(out), texts(in)) {
				t.Errorf("%d: records are lost or out of order", digits)
			}
		}
	})
}

// A lease under a byte bound moves little, even if what it samples is small and the rest is large.
func TestByteBoundOfUnevenRecords(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, bound := range []int{10_000, 200_000, 5 << 20} {
			q := open(t, c, queue.Config{})
			var in [][]byte
			for i := range 1500 {
				in = append(in, bytes.Repeat([]byte{byte('a' + i%26)}, []int{1, 3000, 2, 1, 700}[i%5]))
			}
			must(t, q.Push(t.Context(), in...))
			var out [][]byte
			for len(out) < len(in) {
				b, err := q.TryLease(t.Context(), queue.LeaseOptions{Records: 3000, Bytes: bound})
				must(t, err)
				if b.Bytes > bound {
					t.Errorf("a batch bounded by %d bytes has %d in %d records", bound, b.Bytes, len(b.Payloads))
				}
				out = append(out, b.Payloads...)
			}
			if !slices.Equal(texts(out), texts(in)) {
				t.Errorf("bound %d: records are lost or out of order", bound)
			}
			books(t, q)
		}
	})
}

// An undo on a key of a wrong type changes nothing, whichever batch of the call it belongs to.
func TestAckWithAFaultyUndo(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{})
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 2)...))
		a, b := lease(t, q, queue.LeaseOptions{Records: 1}), lease(t, q, queue.LeaseOptions{Records: 1})
		key := "{" + q.Name() + "}:x"
		must(t, c.Do(ctx, c.B().Sadd().Key(key).Member("m").Build()).Error())
		undo := []queue.Undo{{Key: key, Old: "o", New: "n"}}
		for _, acks := range [][]queue.Ack{{{ID: a.ID}, {ID: b.ID, Undo: undo}}, {{ID: b.ID, Undo: undo}, {ID: a.ID}}} {
			_, err := q.AckWith(ctx, acks...)
			wantErr(t, err, queue.ErrWrongType)
			if s := books(t, q); s.Acked != 0 || s.InFlight != 2 {
				t.Errorf("half done: %+v", s)
			}
		}
		wantErr(t, q.Settle(ctx, b, queue.Resolution{Undo: undo}), queue.ErrWrongType)
		books(t, q)
	})
}

// The text of a failure is kept once, cut to its bound and to whole characters.
func TestReasonIsCut(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		cfg := quick
		cfg.Lease.MaxFailures = 1
		q := open(t, c, cfg)
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 9)...))
		long := "x" + strings.Repeat("ä", 1<<19)
		for {
			b, err := leaseOrEmpty(t, q, queue.LeaseOptions{})
			if errors.Is(err, queue.ErrEmpty) {
				break
			}
			must(t, err)
			if b.Reason != "" {
				t.Errorf("a batch that never failed has a reason of %d bytes", len(b.Reason))
			}
			must(t, q.Release(ctx, b, queue.ReleaseOptions{Failure: long}))
		}
		dead, _, err := q.DeadLetters(ctx, "", 100)
		must(t, err)
		if len(dead) != 9 {
			t.Errorf("got %d dead letters, want 9", len(dead))
		}
		for _, d := range dead {
			if want := long[:queue.MaxReason-1]; d.Reason != want {
				t.Errorf("got a reason of %d bytes, want the first %d", len(d.Reason), len(want))
			}
		}
	})
}

// A program of another layout learns both versions: when it opens the queue, and when the data
// change under it.
func TestLayout(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{})
		bounded := openAs(t, c, q.Name(), queue.Config{Push: queue.PushConfig{MaxDepth: 100}})
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 9)...))
		must(t, q.Settle(ctx, lease(t, q, queue.LeaseOptions{Records: 1}), queue.Resolution{}))
		dead, _, err := q.DeadLetters(ctx, "", 1)
		must(t, err)
		must(t, q.Handoff(ctx, lease(t, q, queue.LeaseOptions{Records: 1})))
		b := lease(t, q, queue.LeaseOptions{Records: 1})
		atRest := func() queue.Stats {
			s := books(t, q)
			s.At, s.OldestAge = time.Time{}, 0
			return s
		}
		before := atRest()
		stat := "{" + q.Name() + "}:queue:stat"
		have, err := c.Do(ctx, c.B().Hget().Key(stat).Field("layout").Build()).ToString()
		must(t, err)
		must(t, c.Do(ctx, c.B().Hset().Key(stat).FieldValue().FieldValue("layout", "99").Build()).Error())
		for what, f := range map[string]func() error{
			"New":     func() error { _, err := queue.New(ctx, c, q.Name(), queue.Config{Logger: quiet}); return err },
			"lease":   func() error { _, err := q.TryLease(ctx, queue.LeaseOptions{}); return err },
			"small":   func() error { return bounded.Push(ctx, records(0, 1)...) },
			"large":   func() error { return bounded.Push(ctx, records(0, 70)...) },
			"moved":   func() error { return q.PushFrom(ctx, "source", "", "1", records(0, 1)...) },
			"delayed": func() error { return bounded.PushAt(ctx, time.Now(), records(0, 1)...) },
			"later":   func() error { return q.PushAt(ctx, time.Now(), records(0, 1)...) },
			"extend":  func() error { return q.Extend(ctx, b, time.Hour) },
			"waits":   func() error { return q.ExtendWaiting(ctx, b, time.Hour) },
			"handoff": func() error { return q.Handoff(ctx, b) },
			"release": func() error { return q.Release(ctx, b, queue.ReleaseOptions{}) },
			"settle":  func() error { return q.Settle(ctx, b, queue.Resolution{}) },
			"ack":     func() error { _, err := q.Ack(ctx, b.ID); return err },
			"undo": func() error {
				undo := slices.Repeat([]queue.Undo{{Key: stat[:len(stat)-4] + "x", Old: "a", New: "b"}}, 2000)
				_, err := q.AckWith(ctx, queue.Ack{ID: b.ID, Undo: undo})
				return err
			},
			"requeue":   func() error { _, err := q.Requeue(ctx, dead[0].ID); return err },
			"discard":   func() error { _, err := q.Discard(ctx, dead[0].ID); return err },
			"reconcile": func() error { return reconcileUnknown(ctx, q) },
			"repair":    func() error { _, err := q.Repair(ctx, nil); return err },
			"audit":     func() error { _, err := q.Audit(ctx); return err },
			"stats":     func() error { _, err := q.Stats(ctx); return err },
			"batches":   func() error { _, err := q.Batches(ctx, b.ID); return err },
			"pause":     func() error { return q.Pause(ctx) },
			"resume":    func() error { return q.Resume(ctx) },
		} {
			var e *queue.LayoutError
			if err := f(); !errors.As(err, &e) || e.Have != "99" || e.Want != have || !errors.Is(err, queue.ErrLayout) {
				t.Errorf("%s: got %v, want layouts 99 and %s", what, err, have)
			}
		}
		must(t, c.Do(ctx, c.B().Hset().Key(stat).FieldValue().FieldValue("layout", have).Build()).Error())
		if after := atRest(); after != before {
			t.Errorf("calls have changed the data of another version: got %+v, want %+v", after, before)
		}
		a, err := q.Audit(ctx)
		must(t, err)
		must(t, a.Balanced())
	})
}

// The number of shards is raised and lowered while records wait.
func TestNumberOfShards(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name, ctx := servertest.Prefix(t), t.Context()
		cfg := queue.Config{Logger: quiet}
		open := func(n int) (*queue.Shards, error) { return queue.NewShards(ctx, c, name, n, nil, cfg) }
		four, err := open(4)
		must(t, err)
		must(t, four.Push(ctx, records(0, 40)...))
		held, err := four.TryLease(ctx, queue.LeaseOptions{Records: 5})
		must(t, err)
		for _, n := range []int{6, 3, 1} {
			_, err := open(n)
			var e *queue.ShardsError
			if !errors.As(err, &e) || e.Have != 4 || e.Want != n || e.Records == 0 || !errors.Is(err, queue.ErrConfig) {
				t.Errorf("%d shards: got %v, want an error that names 4 and %d", n, err, n)
			}
		}
		again, err := open(4)
		must(t, err)
		_, err = four.Ack(ctx, held.ID)
		must(t, err)
		seen := len(held.Payloads)
		for {
			b, err := again.TryLease(ctx, queue.LeaseOptions{})
			if errors.Is(err, queue.ErrEmpty) {
				break
			}
			must(t, err)
			seen += len(b.Payloads)
			_, err = again.Ack(ctx, b.ID)
			must(t, err)
		}
		if seen != 40 {
			t.Errorf("got %d records, want 40", seen)
		}
		six, err := open(6)
		must(t, err)
		must(t, six.Push(ctx, records(0, 12)...))
		if _, err := open(4); !errors.Is(err, queue.ErrConfig) {
			t.Errorf("back to 4 shards while 6 hold records: got %v, want %v", err, queue.ErrConfig)
		}
	})
}
