package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
	"github.com/redis/rueidis"
)

// A record that the server would not read is an error that names the setting, and breaks no
// connection: the records around it get through, each once.
func TestRecordOverASettingOfTheServer(t *testing.T) {
	t.Parallel()
	const limit, before = 1 << 20, 512 << 20
	c := servertest.OwnRedis(t).Client(t)
	for _, setting := range []string{"proto-max-bulk-len", "client-query-buffer-limit"} {
		ctx := t.Context()
		config(t, c, setting, fmt.Sprint(limit))
		push := queue.PushConfig{MaxPayload: before, MaxDepth: 100}
		name := servertest.Prefix(t)
		cfg := queue.Config{Push: push, Lease: queue.LeaseConfig{Bytes: before}}
		bounded := openAs(t, c, name, cfg)
		cfg.Push.MaxDepth = 0
		q := openAs(t, c, name, cfg)
		fits := bytes.Repeat([]byte("f"), limit-1000)
		for _, size := range []int{limit, limit + 1, 3 * limit} {
			large := bytes.Repeat([]byte("x"), size)
			for what, err := range map[string]error{
				"push":         q.Push(ctx, []byte("a"), large, []byte("b")),
				"bounded push": bounded.Push(ctx, []byte("a"), large),
				"delayed push": q.PushAt(ctx, time.Now(), []byte("a"), large),
				"push from":    q.PushFrom(ctx, "source", "", "1", large),
			} {
				var e *queue.TooLargeError
				if !errors.Is(err, queue.ErrTooLarge) || !errors.As(err, &e) || e.Size != size || e.Max != limit || e.Setting != setting ||
					!strings.Contains(err.Error(), setting) || !strings.Contains(err.Error(), fmt.Sprint(limit)) {
					t.Errorf("%s: %s of %d bytes: got %v, want an error that names the setting, its value and the size", setting, what, size, err)
				}
			}
			must(t, q.Push(ctx, []byte("small"), fits))
			must(t, bounded.Push(ctx, []byte("bounded"), fits))
		}
		n := 0
		for n < 12 {
			b := lease(t, q, queue.LeaseOptions{})
			n += len(b.Payloads)
			_, err := q.Ack(ctx, b.ID)
			must(t, err)
		}
		if s := books(t, q); s.Acked != 12 || s.Ready+s.Delayed+s.InFlight != 0 {
			t.Errorf("%s: got %+v, want 12 acknowledged and none left", setting, s)
		}
		config(t, c, setting, "1gb")
	}
}

// A server that sends no reply as large as a batch stops no consumer: batches become smaller, those
// that were sealed before are read in steps, and every record is delivered once, with no crash.
func TestRepliesOverTheOutputBufferLimit(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t).Client(t)
	ctx := t.Context()
	q := open(t, c, queue.Config{})
	const n, size = 400, 8 << 10
	for i := range n {
		must(t, q.Push(ctx, append(fmt.Appendf(nil, "%04d", i), bytes.Repeat([]byte("x"), size-4)...)))
	}
	before := lease(t, q, queue.LeaseOptions{Records: 100, Bytes: 100 * size})
	must(t, q.Release(ctx, before, queue.ReleaseOptions{}))
	config(t, c, "client-output-buffer-limit", "normal 200000 0 0")
	var got []string
	for failed := 0; len(got) < n; {
		b, err := q.TryLease(ctx, queue.LeaseOptions{Records: 300, Bytes: 300 * size, Duration: time.Hour})
		if err != nil {
			if failed++; failed > 3 {
				t.Fatalf("%d leases failed: %v", failed, err)
			}
			continue
		}
		if b.Crashes > 0 {
			t.Errorf("batch %s has %d crashes, want none", b.ID, b.Crashes)
		}
		for _, p := range b.Payloads {
			got = append(got, string(p[:4]))
		}
		_, err = q.Ack(ctx, b.ID)
		must(t, err)
	}
	slices.Sort(got)
	for i, text := range got {
		if text != fmt.Sprintf("%04d", i) {
			t.Fatalf("record %d is %s", i, text)
		}
	}
	books(t, q)
	// A record that is larger than any reply.
	must(t, q.Push(ctx, bytes.Repeat([]byte("x"), 500_000)))
	_, err := q.TryLease(ctx, queue.LeaseOptions{Duration: time.Hour})
	for try := 0; try < 3 && !errors.Is(err, queue.ErrReplyLimit); try++ {
		_, err = q.TryLease(ctx, queue.LeaseOptions{Duration: time.Hour})
	}
	if !errors.Is(err, queue.ErrReplyLimit) || !strings.Contains(err.Error(), "client-output-buffer-limit normal is 200000") {
		t.Errorf("got %v, want an error that names the setting", err)
	}
}

// unplugged is a client whose network fails just before it reads a list.
type unplugged struct {
	rueidis.Client
	proxy *redisxtest.Proxy
	reads atomic.Int64 // how many lists it reads before that
}

func (u *unplugged) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	if cmd.Commands()[0] == "LRANGE" && u.reads.Add(-1) == 0 {
		u.proxy.Down()
	}
	return u.Client.Do(ctx, cmd)
}

// A lost connection is no ErrReplyLimit, also where the server is known to bound replies.
func TestLostConnectionIsNoReplyLimit(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	admin, proxy := own.Client(t), redisxtest.NewProxy(t, own.URL)
	u := &unplugged{Client: proxy.Client(t, nil), proxy: proxy}
	ctx := t.Context()
	for _, reads := range []int64{1, 2} {
		config(t, admin, "client-output-buffer-limit", "normal 0 0 0")
		q := open(t, u, queue.Config{})
		for range 100 {
			must(t, q.Push(ctx, bytes.Repeat([]byte("x"), 4000)))
		}
		o := queue.LeaseOptions{Records: 100, Bytes: 1 << 20, Duration: time.Hour}
		must(t, q.Release(ctx, lease(t, q, o), queue.ReleaseOptions{}))
		config(t, admin, "client-output-buffer-limit", "normal 200000 0 0")
		b := lease(t, q, o) // its reply is lost at first, so the queue learns the bound
		must(t, q.Release(ctx, b, queue.ReleaseOptions{}))
		u.reads.Store(reads)
		_, err := q.TryLease(ctx, o)
		if err == nil || errors.Is(err, queue.ErrReplyLimit) {
			t.Errorf("network lost at read %d: got %v, want the lost connection", reads, err)
		}
		if left := u.reads.Load(); left > 0 {
			t.Errorf("%d reads were left before the network failed, want 0", left)
		}
		proxy.Point(t, own.URL)
	}
}

// A server that closes the connection of each large reply, without a bound of replies that a client
// can ask for, stops no consumer either. When it sends large replies again, batches grow again.
func TestRepliesThatAreLost(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t).Client(t)
	ctx := t.Context()
	q := open(t, c, queue.Config{})
	const n, size = 500, 8000
	o := queue.LeaseOptions{Records: n, Bytes: n * size, Duration: time.Hour}
	records := make([][]byte, n)
	for i := range records {
		records[i] = append(fmt.Appendf(nil, "%04d", i), bytes.Repeat([]byte("x"), size-4)...)
	}
	must(t, q.Push(ctx, records...))
	before := lease(t, q, o)
	must(t, q.Release(ctx, before, queue.ReleaseOptions{}))
	must(t, q.Push(ctx, records...))
	config(t, c, "maxmemory-clients", "2mb")
	got, failed := map[string]int{}, 0
	for left := 2 * n; left > 0; {
		b, err := q.TryLease(ctx, o)
		if err != nil {
			if failed++; failed > 4 {
				t.Fatalf("%d leases failed: %v", failed, err)
			}
			continue
		}
		if b.Crashes > 0 {
			t.Errorf("batch %s has %d crashes, want none", b.ID, b.Crashes)
		}
		for _, p := range b.Payloads {
			got[string(p[:4])]++
		}
		left -= len(b.Payloads)
		_, err = q.Ack(ctx, b.ID)
		must(t, err)
	}
	for i := range n {
		if k := fmt.Sprintf("%04d", i); got[k] != 2 {
			t.Fatalf("record %s was delivered %d times, want 2", k, got[k])
		}
	}
	books(t, q)
	config(t, c, "maxmemory-clients", "0")
	for range 200 {
		must(t, q.Push(ctx, records[0]))
		_, err := q.Ack(ctx, lease(t, q, o).ID)
		must(t, err)
	}
	must(t, q.Push(ctx, records...))
	if b := lease(t, q, o); len(b.Payloads) != n {
		t.Errorf("got a batch of %d records, want %d again", len(b.Payloads), n)
	}
}

// A lease copies little more than a batch, wherever the large records of the list are: samples of
// it miss them.
func TestLeaseCopiesNoLongList(t *testing.T) {
	t.Parallel()
	c, ctx := servertest.OwnRedis(t).Client(t), t.Context()
	q := open(t, c, queue.Config{Logger: quiet})
	memory := func(field string) int64 {
		info, err := c.Do(ctx, c.B().Info().Section("memory").Build()).ToString()
		must(t, err)
		_, rest, _ := strings.Cut(info, "\n"+field+":")
		n, err := strconv.ParseInt(strings.TrimSpace(rest[:strings.IndexByte(rest, '\n')]), 10, 64)
		must(t, err)
		return n
	}
	large := make([]byte, 1<<20)
	payloads := records(0, 50) // the oldest
	for range 100 {
		payloads = append(payloads, large)
	}
	payloads = append(payloads, records(150, 2000)...)
	must(t, q.Push(ctx, payloads...))
	must(t, q.PushAt(ctx, time.Now(), payloads[:100]...)) // it is merged in small steps
	for _, bytes := range []int{1 << 20, 16 << 20, 100 << 20, 100 << 20} {
		used := memory("used_memory")
		b := lease(t, q, queue.LeaseOptions{Records: 2000, Bytes: bytes, Duration: time.Hour})
		if b.Bytes > bytes && len(b.Payloads) > 1 {
			t.Errorf("got a batch of %d bytes, want at most %d", b.Bytes, bytes)
		}
		if more := memory("used_memory_peak") - used; more > 64<<20 {
			t.Errorf("a lease of up to %d MiB copied %d MiB", bytes>>20, more>>20)
		}
	}
}

// Repair buries a batch of large records in several steps.
func TestRepairOfLargeRecords(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q, ctx := open(t, c, queue.Config{Logger: quiet}), t.Context()
		for i := range 12 {
			must(t, q.Push(ctx, append(make([]byte, 1<<20-1), byte(i))))
		}
		b := lease(t, q, queue.LeaseOptions{Records: 12, Bytes: 20 << 20, Duration: time.Hour})
		must(t, c.Do(ctx, c.B().Rpop().Key("{"+q.Name()+"}:queue:b:"+b.ID).Build()).Error())
		r, err := q.Repair(ctx, nil)
		must(t, err)
		must(t, r.After.Balanced())
		if r.Buried != 11 || r.Lost != 1 {
			t.Errorf("got %d buried and %d lost, want 11 and 1", r.Buried, r.Lost)
		}
		dead, _, err := q.DeadLetters(ctx, "", 100)
		must(t, err)
		for i, d := range dead {
			if d.Root != b.ID || d.Offset < 0 || d.Offset > 11 || len(d.Payload) != 1<<20 {
				t.Errorf("letter %d: root %s, offset %d, %d bytes", i, d.Root, d.Offset, len(d.Payload))
			}
		}
	})
}
