package queue_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// longestStop returns the longest time that one command of f took at the server, by SLOWLOG, and
// the longest that a PING of a second client waited meanwhile.
func longestStop(b *testing.B, c, other rueidis.Client, f func()) (command, ping time.Duration) {
	b.Helper()
	ctx := context.Background()
	do := func(args ...string) rueidis.RedisResult { return c.Do(ctx, c.B().Arbitrary(args...).Build()) }
	must(b, do("CONFIG", "SET", "slowlog-log-slower-than", "1000", "slowlog-max-len", "5000").Error())
	must(b, do("SLOWLOG", "RESET").Error())
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			start := time.Now()
			_ = other.Do(ctx, other.B().Ping().Build()).Error() // a failed one shows in f as well
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
	entries, err := do("SLOWLOG", "GET", "5000").ToArray()
	must(b, err)
	for _, e := range entries {
		v, err := e.ToArray()
		must(b, err)
		name, err := v[3].ToArray()
		must(b, err)
		us, err := v[2].AsInt64()
		must(b, err)
		if first, _ := name[0].ToString(); first != "SLOWLOG" && first != "CONFIG" {
			command = max(command, time.Duration(us)*time.Microsecond)
		}
	}
	return command, ping
}

// BenchmarkStops prints the longest stop of each operation at a size that the API accepts.
func BenchmarkStops(b *testing.B) {
	if b.N > 1 {
		return
	}
	b.ReportMetric(0, "ns/op") // nothing is timed as a whole
	c := servertest.Redis(b)
	other := servertest.Redis(b)
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
	lease := func(o queue.LeaseOptions) func() {
		return func() {
			var err error
			batch, err = q.TryLease(ctx, o)
			must(b, err)
		}
	}
	for _, op := range []struct {
		name string
		run  func()
	}{
		{"push-bounded", func() { must(b, q.Push(ctx, small...)) }},
		{"push-at", func() { must(b, q.PushAt(ctx, time.Now(), small...)) }},
		{"lease", lease(queue.LeaseOptions{})},
		{"lease-largest", lease(queue.LeaseOptions{Records: queue.MaxRecords})},
		{"split", func() { must(b, q.Settle(ctx, batch, queue.Resolution{})) }},
		{"audit", func() { _, err := q.Audit(ctx); must(b, err) }},
		{"push-uneven", func() { must(b, q.Push(ctx, uneven...)) }},
		{"lease-by-bytes", lease(queue.LeaseOptions{Records: queue.MaxRecords, Bytes: 1 << 20})},
		{"lease-delayed", func() {
			for i := range 3000 {
				must(b, q.PushAt(ctx, time.Now(), small[i:i+1]...))
			}
			lease(queue.LeaseOptions{Records: 3000})()
		}},
	} {
		command, ping := longestStop(b, c, other, op.run)
		bench.Note(b, "queue/stop/%s longest command %v, longest PING of another client %v", op.name, command, ping)
	}
	must(b, c.Do(ctx, c.B().Unlink().Key("{"+q.Name()+"}:ready").Build()).Error())
}
