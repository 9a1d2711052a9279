package lookup_test

import (
	"context"
	"encoding/json"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/redis/rueidis"
)

type benchZone struct {
	City     string `json:"city"`
	State    string `json:"state"`
	TimeZone string `json:"time_zone"`
	Zone     int    `json:"zone"`
}

func benchTable[V any](b testing.TB, c rueidis.Client, n int, value func(i int) V) *lookup.Table[string, V] {
	b.Helper()
	table, err := lookup.New(b.Context(), c, servertest.Prefix(b), lookup.Config[string, V]{
		Load: func(_ context.Context, put func(string, V) error) error {
			for i := range n {
				if err := put(strconv.Itoa(i), value(i)); err != nil {
					return err
				}
			}
			return nil
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := table.Refresh(b.Context()); err != nil {
		b.Fatal(err)
	}
	return table
}

func zoneOf(i int) benchZone {
	return benchZone{City: "City " + strconv.Itoa(i), State: "NY", TimeZone: "America/New_York", Zone: i % 8}
}

// hashOf writes a table as one hash, and returns its key.
func hashOf[V any](b *testing.B, c rueidis.Client, table *lookup.Table[string, V]) string {
	b.Helper()
	key := "{" + table.Name() + "}:bare"
	s, err := table.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	for k, v := range s.All() {
		text, err := json.Marshal(v)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Do(b.Context(), c.B().Hset().Key(key).FieldValue().FieldValue(k, string(text)).Build()).Error(); err != nil {
			b.Fatal(err)
		}
	}
	return key
}

// BenchmarkFigures enriches orders with three look-ups each: from snapshots, against the pattern
// that this package replaces, three HGETs an order (pipelined here, a batch of 1,000 orders at a
// time; the original waits for each).
func BenchmarkFigures(b *testing.B) {
	c := servertest.Redis(b)
	zips := benchTable(b, c, 42_000, zoneOf)
	products := benchTable(b, c, 100_000, func(i int) float64 { return float64(i) / 100 })
	rates := benchTable(b, c, 7, func(i int) float64 { return 1 + float64(i) })
	keys := []string{hashOf(b, c, zips), hashOf(b, c, products), hashOf(b, c, rates)}
	const orders, size = 150_000, 1000 // a million in seven rounds
	names := make([][3]string, orders)
	for i := range names {
		names[i] = [3]string{strconv.Itoa(i * 7919 % 42_000), strconv.Itoa(i * 7919 % 100_000), strconv.Itoa(i % 7)}
	}
	sum := 0.0
	bench.Run(b, bench.Figure{
		Name: "lookup/enrich",
		Bare: func(int) int {
			for from := 0; from < orders; from += size {
				cmds := make(rueidis.Commands, 0, 3*size)
				for _, n := range names[from : from+size] {
					for k := range keys {
						cmds = append(cmds, c.B().Hget().Key(keys[k]).Field(n[k]).Build())
					}
				}
				for _, r := range c.DoMulti(context.Background(), cmds...) {
					if _, err := r.ToString(); err != nil {
						b.Fatal(err)
					}
				}
			}
			return orders
		},
		Ours: func(int) int {
			const times = 5 // one is too short to be timed
			for range times {
				zips, _ := zips.Snapshot()
				products, _ := products.Snapshot()
				rates, _ := rates.Snapshot()
				for i := range names {
					zone, ok1 := zips.Get(names[i][0])
					price, ok2 := products.Get(names[i][1])
					rate, ok3 := rates.Get(names[i][2])
					if !ok1 || !ok2 || !ok3 {
						b.Fatal("missing")
					}
					sum += price/rate + float64(zone.Zone)
				}
			}
			return times * orders
		},
	})
}

// BenchmarkTable notes what a table costs: its first load, the next refresh, a process' read of it,
// and memory on both sides.
func BenchmarkTable(b *testing.B) {
	c := servertest.Redis(b)
	for _, n := range []int{42_000, 100_000} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		from := time.Now()
		table := benchTable(b, c, n, zoneOf)
		first := time.Since(from)
		runtime.GC()
		runtime.ReadMemStats(&after)
		s, err := table.Snapshot()
		if err != nil {
			b.Fatal(err)
		}
		used := int64(0)
		for _, key := range keysOf(b, c, "{"+table.Name()+"}:lookup:v:"+s.Version()) {
			n, err := c.Do(b.Context(), c.B().MemoryUsage().Key(key).Samples(0).Build()).AsInt64()
			if err != nil {
				b.Fatal(err)
			}
			used += n
		}
		from = time.Now()
		if _, err := table.Refresh(b.Context()); err != nil {
			b.Fatal(err)
		}
		again := time.Since(from)
		reader, err := lookup.New(b.Context(), c, table.Name(), lookup.Config[string, benchZone]{})
		if err != nil {
			b.Fatal(err)
		}
		from = time.Now()
		if err := reader.Sync(b.Context()); err != nil {
			b.Fatal(err)
		}
		bench.Note(b, "lookup: %d entries: first load %v, refresh %v, read by another process %v; %d bytes an entry in Redis, %d in the process",
			n, first.Round(time.Millisecond), again.Round(time.Millisecond), time.Since(from).Round(time.Millisecond), used/int64(n), (after.HeapAlloc-before.HeapAlloc)/uint64(n))
	}
}

// BenchmarkGet: one look-up, the snapshot asked for each time, against a bare map of the same keys.
// The keys are spread over the whole table, the worst that can be for a processor's caches.
func BenchmarkGet(b *testing.B) {
	c := servertest.Redis(b)
	sum := 0
	for _, n := range []int{7, 42_000, 100_000} {
		table := benchTable(b, c, n, func(i int) int { return i })
		bare := make(map[string]int, n)
		names := make([]string, n)
		for i := range n {
			bare[strconv.Itoa(i)] = i
			names[i] = strconv.Itoa((i * 7919) % n)
		}
		const gets = 2_000_000
		bench.Run(b, bench.Figure{
			Name: "lookup/get/" + strconv.Itoa(n),
			Bare: func(int) int {
				for i := range gets {
					v, ok := bare[names[i%n]]
					if !ok {
						b.Fatal("missing")
					}
					sum += v
				}
				return gets
			},
			Ours: func(int) int {
				for i := range gets {
					s, _ := table.Snapshot()
					v, ok := s.Get(names[i%n])
					if !ok {
						b.Fatal("missing")
					}
					sum += v
				}
				return gets
			},
		})
	}
}

func TestGetDoesNotAllocate(t *testing.T) {
	table := benchTable(t, servertest.Redis(t), 1000, func(i int) int { return i })
	if n := testing.AllocsPerRun(1000, func() {
		s, _ := table.Snapshot()
		if _, ok := s.Get("77"); !ok {
			t.Error("missing")
		}
	}); n != 0 {
		t.Errorf("Get allocates %v times", n)
	}
}

// BenchmarkStops notes how long one command of each operation holds the server at most. The table
// of many parts has as many as a table may have.
func BenchmarkStops(b *testing.B) {
	c := redisxtest.NewStops(b, servertest.OwnRedis(b, "--auto-aof-rewrite-percentage", "0").Client(b))
	longest := func(what string, f func() error) {
		b.Helper()
		c.Reset()
		if err := f(); err != nil {
			b.Fatal(what, err)
		}
		bench.Note(b, "lookup/stops: %s: %.1f ms (%s, %d commands)", what, float64(c.Longest.Microseconds())/1000, c.How(), c.Commands)
	}
	for what, shape := range map[string]struct{ entries, chunk, bytes int }{
		"10,000 parts": {10_000, 1, 10}, "parts of 10,000 entries": {50_000, lookup.MaxChunk, 10}, "parts of 1 MB": {2_000, lookup.MaxChunk, 20_000},
	} {
		name := servertest.Prefix(b)
		value := strings.Repeat("x", shape.bytes)
		cfg := lookup.Config[string, string]{Chunk: shape.chunk, Load: func(_ context.Context, put func(string, string) error) error {
			for i := range shape.entries {
				if err := put(strconv.Itoa(i), value); err != nil {
					return err
				}
			}
			return nil
		}}
		table, err := lookup.New(b.Context(), c, name, cfg)
		if err != nil {
			b.Fatal(err)
		}
		longest("first refresh, "+what, func() error { _, err := table.Refresh(b.Context()); return err })
		longest("next refresh, "+what, func() error { _, err := table.Refresh(b.Context()); return err })
		reader, err := lookup.New(b.Context(), c, name, lookup.Config[string, string]{})
		if err != nil {
			b.Fatal(err)
		}
		longest("first read, "+what, func() error { return reader.Sync(b.Context()) })
	}
}
