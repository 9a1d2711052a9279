package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/queue"
)

const (
	benchPayload = 380
	benchBatch   = 2000
	benchRecords = 100_000 // of one filling; a measurement takes several, or its 50 batches are over before anything has settled
	benchFills   = 5
)

func benchPayloads(n int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = fmt.Appendf(nil, "%0*d", benchPayload, i)
	}
	return out
}

// sortLease is the barest script that seals a batch under a lease, with the fastest move there is:
// the records, the deadline, and that is all.
const sortLease = `local len = redis.call('LLEN', KEYS[1])
local n = math.min(len, tonumber(ARGV[1]))
if n == 0 then return 0 end
if n == len then
  redis.call('RENAME', KEYS[1], KEYS[2])
else
  redis.call('SORT', KEYS[1], 'BY', 'nosort', 'LIMIT', len - n, n, 'STORE', KEYS[2])
  redis.call('LTRIM', KEYS[1], 0, len - n - 1)
end
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[2])
return n`

// moveLease is the same with the move that comes to mind first.
const moveLease = `local n = math.min(redis.call('LLEN', KEYS[1]), tonumber(ARGV[1]))
for i = 1, n do redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT') end
if n > 0 then redis.call('ZADD', KEYS[3], ARGV[3], ARGV[2]) end
return n`

// bareDrain seals, reads and unlinks batches until there is none: two round trips a batch, as with
// the queue.
func bareDrain(b *testing.B, c rueidis.Client, script, name string) int {
	ctx := context.Background()
	sha, err := c.Do(ctx, c.B().ScriptLoad().Script(script).Build()).ToString()
	if err != nil {
		b.Fatal(err)
	}
	total := 0
	for {
		id := uid.New()
		list, leases := "{"+name+"}:b:"+id, "{"+name+"}:leases"
		r := c.DoMulti(ctx,
			c.B().Evalsha().Sha1(sha).Numkeys(3).Key("{"+name+"}:ready", list, leases).Arg(strconv.Itoa(benchBatch), id, "1790000000000").Build(),
			c.B().Lrange().Key(list).Start(0).Stop(-1).Build())
		n, err := r[0].AsInt64()
		if err != nil {
			b.Fatal(err)
		}
		if n == 0 {
			return total
		}
		v, err := r[1].ToArray()
		if err != nil || len(v) != int(n) {
			b.Fatal(err, len(v))
		}
		payloads := make([][]byte, n)
		for i := range v {
			if payloads[i], err = v[i].AsBytes(); err != nil {
				b.Fatal(err)
			}
		}
		total += len(payloads)
		for _, r := range c.DoMulti(ctx, c.B().Unlink().Key(list).Build(), c.B().Zrem().Key(leases).Member(id).Build()) {
			if err := r.Error(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// popDrain loses what it holds when it dies.
func popDrain(b *testing.B, c rueidis.Client, name string) int {
	total := 0
	for {
		v, err := c.Do(context.Background(), c.B().Rpop().Key("{"+name+"}:ready").Count(benchBatch).Build()).ToArray()
		if rueidis.IsRedisNil(err) {
			return total
		}
		if err != nil {
			b.Fatal(err)
		}
		for i := range v {
			if _, err := v[i].AsBytes(); err != nil {
				b.Fatal(err)
			}
		}
		total += len(v)
	}
}

// drain leases and acknowledges until the queue is empty.
func drain(b *testing.B, q *queue.Queue, size int) int {
	ctx := context.Background()
	total := 0
	for {
		x, err := q.TryLease(ctx, queue.LeaseOptions{Records: size})
		if errors.Is(err, queue.ErrEmpty) {
			return total
		}
		if err != nil {
			b.Error(err)
			return total
		}
		total += len(x.Payloads)
		if n, err := q.Ack(ctx, x.ID); n != 1 || err != nil {
			b.Error(n, err)
			return total
		}
	}
}

// bareLpush is LPUSH, as many values a command as Push has.
func bareLpush(b *testing.B, c rueidis.Client, name string, payloads [][]byte) {
	var cmds []rueidis.Completed
	for chunk := range slices.Chunk(payloads, queue.DefaultChunk) {
		values := make([]string, len(chunk))
		for i, v := range chunk {
			values[i] = rueidis.BinaryString(v)
		}
		cmds = append(cmds, c.B().Lpush().Key("{"+name+"}:ready").Element(values...).Build())
	}
	for _, r := range c.DoMulti(context.Background(), cmds...) {
		must(b, r.Error())
	}
}

// fillWith gives q what one measurement takes.
func fillWith(b *testing.B, c rueidis.Client, q *queue.Queue, payloads [][]byte) {
	b.Helper()
	for range benchFills {
		must(b, q.Push(b.Context(), payloads...))
	}
	servertest.Rest(b, c)
}

func BenchmarkFigures(b *testing.B) {
	c := servertest.Redis(b)
	q := open(b, c, queue.Config{})
	ctx := context.Background()
	payloads := benchPayloads(benchRecords)
	del := func() {
		must(b, c.Do(ctx, c.B().Del().Key("{"+q.Name()+"}:ready").Build()).Error())
	}
	fill := func(int) {
		del()
		fillWith(b, c, q, payloads)
	}
	const call = 5000 // records of one Push
	push := func(q *queue.Queue) func(int) int {
		return func(int) int {
			for range benchFills {
				for p := range slices.Chunk(payloads, call) {
					must(b, q.Push(ctx, p...))
				}
			}
			return benchFills * benchRecords
		}
	}
	empty := func(int) { del(); servertest.Rest(b, c) }
	lpush := func(int) int {
		for range benchFills {
			for p := range slices.Chunk(payloads, call) {
				bareLpush(b, c, q.Name(), p)
			}
		}
		return benchFills * benchRecords
	}
	bench.Run(b, bench.Figure{Name: "queue/push", Setup: empty, Ours: push(q), Bare: lpush})
	bounded := openAs(b, c, q.Name(), queue.Config{Push: queue.PushConfig{MaxDepth: 1 << 30}})
	bench.Run(b, bench.Figure{Name: "queue/push-bounded", Setup: empty, Ours: push(bounded), Bare: lpush})
	ours := func(int) int { return drain(b, q, benchBatch) }
	bench.Run(b, bench.Figure{Name: "queue/lease", Setup: fill, Ours: ours, Bare: func(int) int { return bareDrain(b, c, sortLease, q.Name()) }})
	bench.Run(b, bench.Figure{Name: "queue/lease-lmove", Setup: fill, Ours: ours, Bare: func(int) int { return bareDrain(b, c, moveLease, q.Name()) }})
	bench.Run(b, bench.Figure{Name: "queue/lease-rpop", Setup: fill, Ours: ours, Bare: func(int) int { return popDrain(b, c, q.Name()) }})
	del()
}

// BenchmarkDepth: a lease with an ack, and Stats, on a deep queue; the bare side is a shallow one.
func BenchmarkDepth(b *testing.B) {
	c := servertest.Redis(b)
	ctx := context.Background()
	deep, shallow := open(b, c, queue.Config{}), open(b, c, queue.Config{})
	depth := 10_000_000
	if testing.Short() {
		depth = 1_000_000
	}
	small := make([][]byte, 50_000)
	for i := range small {
		small[i] = fmt.Appendf(nil, "%040d", i)
	}
	for range depth / len(small) {
		if err := deep.Push(ctx, small...); err != nil {
			b.Fatal(err)
		}
	}
	const batch, times = 10, 900 // small batches: what a lease costs besides its records
	work := func(q *queue.Queue) func(int) int {
		return func(int) int {
			for range times {
				x, err := q.TryLease(ctx, queue.LeaseOptions{Records: batch})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := q.Ack(ctx, x.ID); err != nil {
					b.Fatal(err)
				}
			}
			return times * batch
		}
	}
	fill := func(int) {
		for q, to := range map[*queue.Queue]int{deep: depth, shallow: 10_000} {
			s, err := q.Stats(ctx)
			must(b, err)
			if n := to - int(s.Ready); n > 0 {
				must(b, q.Push(ctx, small[:n]...))
			}
		}
		servertest.Rest(b, c)
	}
	bench.Note(b, "queue/depth: %d records ready, and 10000 on the bare side", depth)
	bench.Run(b, bench.Figure{Name: "queue/depth-lease", Setup: fill, Bare: work(shallow), Ours: work(deep)})
	stats := func(q *queue.Queue) func(int) int {
		return func(int) int {
			for range 3000 {
				if _, err := q.Stats(ctx); err != nil {
					b.Fatal(err)
				}
			}
			return 3000
		}
	}
	bench.Run(b, bench.Figure{Name: "queue/depth-stats", Setup: func(int) { servertest.Rest(b, c) }, Bare: stats(shallow), Ours: stats(deep)})
	if err := c.Do(ctx, c.B().Unlink().Key("{"+deep.Name()+"}:ready").Build()).Error(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkWake prints how long a push takes to a waiting consumer.
func BenchmarkWake(b *testing.B) {
	c := servertest.Redis(b)
	q := open(b, c, queue.Config{})
	ctx := context.Background()
	var took []time.Duration
	for range 201 {
		at := make(chan time.Time, 1)
		go func() {
			x, err := q.Lease(ctx, queue.LeaseOptions{})
			at <- time.Now()
			if err == nil {
				_, err = q.Ack(ctx, x.ID)
			}
			if err != nil {
				b.Error(err)
			}
			at <- time.Time{}
		}()
		<-time.After(3 * time.Millisecond) // it has begun to wait, or nearly so
		start := time.Now()
		if err := q.Push(ctx, []byte("x")); err != nil {
			b.Fatal(err)
		}
		took = append(took, (<-at).Sub(start))
		<-at
	}
	slices.Sort(took)
	bench.Note(b, "queue/wake: pushed → leased, median %v, 99 %% %v", took[len(took)/2], took[len(took)*99/100])
}
