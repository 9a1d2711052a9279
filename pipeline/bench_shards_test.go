package pipeline_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/staging"
)

// taggedClient counts commands by the hash tag of their first key.
type taggedClient struct {
	rueidis.Client
	mu   sync.Mutex
	tags map[string]int
}

func (c *taggedClient) count(cmds ...rueidis.Completed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cmd := range cmds {
		for _, arg := range cmd.Commands()[1:] {
			if tag, _, ok := strings.Cut(arg, "}"); ok && strings.HasPrefix(tag, "{") {
				c.tags[tag[1:]]++
				break
			}
		}
	}
}

func (c *taggedClient) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	c.count(cmd)
	return c.Client.Do(ctx, cmd)
}

func (c *taggedClient) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	c.count(cmds...)
	return c.Client.DoMulti(ctx, cmds...)
}

// BenchmarkShards measures the work of a record, with one worker and one promoter over n shards:
// commands on all shards and on the busiest one, and the CPU time of Redis. A push has 1,000
// records for each shard. The shards are on one server, so its CPU time is that of all nodes
// together.
func BenchmarkShards(b *testing.B) {
	for _, n := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for range b.N {
				shardWork(b, n)
			}
		})
	}
}

func shardWork(b *testing.B, n int) {
	const records = 40_000
	ctx := context.Background()
	check := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	c := &taggedClient{Client: servertest.OwnRedis(b).Client(b), tags: map[string]int{}}
	s, err := pipeline.NewShards(ctx, c, "bench", n, pipeline.ShardsConfig{Key: itemKey, Window: dedup.Config{ExpectedIDs: records}})
	check(err)
	table, err := staging.New(ctx, servertest.Postgres(b), "items", staging.Config[item]{Create: true})
	check(err)
	flow := pipeline.Flow[item]{
		Queue: s.Queue, Table: table, Signals: s.Signals, Gate: s.Gate,
		Chain: pipeline.Then(pipeline.Decode(decodeItem), pipeline.Dedup(s.Window, itemID)),
	}
	cpu := func() (seconds float64) {
		info, err := c.Client.Do(ctx, c.B().Info().Section("cpu").Build()).ToString()
		check(err)
		for _, line := range strings.Fields(info) {
			if name, value, ok := strings.Cut(line, ":"); ok && (name == "used_cpu_user" || name == "used_cpu_sys") {
				x, err := strconv.ParseFloat(value, 64)
				check(err)
				seconds += x
			}
		}
		return seconds
	}
	clear(c.tags)
	before := cpu()
	for i := 0; i < records; i += 1000 * n {
		part := make([][]byte, 1000*n)
		for k := range part {
			part[k] = fmt.Appendf(nil, "order-%d keep", i+k)
		}
		check(s.Push(ctx, part...))
	}
	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{Logger: quiet, Records: 1000})
	check(err)
	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{Logger: quiet})
	check(err)
	running, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = worker.Run(running) })
	wg.Go(func() { _ = promoter.Run(running) })
	check(flow.Drain(ctx))
	stop()
	wg.Wait()
	used := cpu() - before
	all, busiest := 0, 0
	for _, k := range c.tags {
		all, busiest = all+k, max(busiest, k)
	}
	b.ReportMetric(float64(all)/records*1000, "commands/1000-records")
	b.ReportMetric(float64(busiest)/records*1000, "commands-busiest/1000-records")
	b.ReportMetric(used/records*1e6, "redis-µs/record")
}
