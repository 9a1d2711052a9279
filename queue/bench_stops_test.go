package queue_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// longestPing returns the longest that a PING of a client waited while f ran.
func longestPing(c rueidis.Client, f func()) (ping time.Duration) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			start := time.Now()
			_ = c.Do(context.Background(), c.B().Ping().Build()).Error() // a failed one shows in f as well
			ping = max(ping, time.Since(start))
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	<-done
	return ping
}

// BenchmarkStops prints the longest stop of each operation at a size that the API accepts.
func BenchmarkStops(b *testing.B) {
	if b.N > 1 {
		return
	}
	b.ReportMetric(0, "ns/op") // nothing is timed as a whole
	own := servertest.OwnRedis(b, "--auto-aof-rewrite-percentage", "0")
	c := redisxtest.NewStops(b, own.Client(b))
	other := own.Client(b)
	ctx := context.Background()
	million := 1_000_000
	if testing.Short() {
		million = 50_000
	}
	small := make([][]byte, million)
	for i := range small {
		small[i] = bytes.Repeat([]byte("x"), 100)
	}
	uneven := make([][]byte, million/10)
	for i := range uneven {
		uneven[i] = bytes.Repeat([]byte("y"), []int{1, 2000}[i%2])
	}
	q := open(b, c, queue.Config{Push: queue.PushConfig{MaxDepth: 1 << 40}})
	var batch *queue.Batch
	var held []string
	log := "{" + q.Name() + "}:log"
	lease := func(o queue.LeaseOptions) func() {
		return func() {
			var err error
			batch, err = q.TryLease(ctx, o)
			must(b, err)
		}
	}
	for _, op := range []struct {
		name         string
		run, prepare func()
	}{
		{"push-bounded", func() { must(b, q.Push(ctx, small...)) }, nil},
		{"push-at", func() { must(b, q.PushAt(ctx, time.Now(), small...)) }, nil},
		{"lease", lease(queue.LeaseOptions{}), nil},
		{"lease-largest", lease(queue.LeaseOptions{Records: queue.MaxRecords}), nil},
		{"split", func() { must(b, q.Settle(ctx, batch, queue.Resolution{})) }, nil},
		{"audit", func() { _, err := q.Audit(ctx); must(b, err) }, nil},
		{"push-uneven", func() { must(b, q.Push(ctx, uneven...)) }, nil},
		{"lease-by-bytes", lease(queue.LeaseOptions{Records: queue.MaxRecords, Bytes: 1 << 20}), nil},
		{"lease-delayed", lease(queue.LeaseOptions{Records: 3000}), func() {
			for i := range 3000 {
				must(b, q.PushAt(ctx, time.Now(), small[i:i+1]...))
			}
		}},
		{"ack-with-undos", func() {
			undo := make([]queue.Undo, 50_000)
			for i := range undo {
				undo[i] = queue.Undo{Key: log, Offset: int64(i) * 16, Old: "0123456789", New: "x"}
			}
			_, err := q.AckWith(ctx, queue.Ack{ID: batch.ID, Undo: undo})
			must(b, err)
		}, func() {
			must(b, c.Do(ctx, c.B().Set().Key(log).Value(strings.Repeat("0123456789abcdef", 50_000)).Build()).Error())
		}},
		{"ack-many", func() {
			_, err := q.Ack(ctx, held...)
			must(b, err)
		}, func() {
			for range 2000 {
				lease(queue.LeaseOptions{Records: 10})()
				held = append(held, batch.ID)
			}
		}},
		{"expired-leases", func() {
			for range 100 {
				lease(queue.LeaseOptions{Records: 10})()
			}
		}, func() {
			for range 2000 {
				lease(queue.LeaseOptions{Records: 10, Duration: time.Millisecond})()
			}
		}},
		{"bury", func() {
			for range 300 {
				must(b, q.Settle(ctx, batch, queue.Resolution{}))
				lease(queue.LeaseOptions{Records: 1})()
			}
		}, func() { lease(queue.LeaseOptions{Records: 1})() }},
		{"requeue", func() { _, err := q.RequeueAll(ctx); must(b, err) }, nil},
	} {
		if op.prepare != nil {
			op.prepare()
		}
		c.Reset()
		ping := longestPing(other, op.run)
		bench.Note(b, "queue/stop/%s: %.1f ms (%s, %d commands), longest PING of another client %.1f ms",
			op.name, float64(c.Longest.Microseconds())/1000, c.How(), c.Commands, float64(ping.Microseconds())/1000)
	}
}
