package backpressure_test

import (
	"testing"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/redis/rueidis"
)

// The barest gate that counts what was granted and forgets producers that have died: one script to
// acquire, one to release. It has no low mark, no queue of producers, and no clock of its own.
const (
	bareAcquire = `local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for _, m in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1000)) do
  redis.call('ZREM', KEYS[2], m)
  redis.call('DECRBY', KEYS[3], string.match(m, ' (%d+)$'))
end
if redis.call('LLEN', KEYS[1]) + (redis.call('GET', KEYS[3]) or 0) + ARGV[2] > 1000000 then return 0 end
redis.call('ZADD', KEYS[2], now + 30000, ARGV[1])
redis.call('INCRBY', KEYS[3], ARGV[2])
return 1`
	bareRelease = `if redis.call('ZREM', KEYS[2], ARGV[1]) == 1 then redis.call('DECRBY', KEYS[3], ARGV[2]) end`
)

// BenchmarkFigures compares a reservation, made and released, with the barest scripts that do the
// same.
func BenchmarkFigures(b *testing.B) {
	c := servertest.Redis(b)
	name := servertest.Prefix(b)
	list := "{" + name + "}:ready"
	gate, err := backpressure.New(b.Context(), c, name, backpressure.Config{Records: []backpressure.Source{{List: list}}})
	if err != nil {
		b.Fatal(err)
	}
	acquire, release := rueidis.NewLuaScript(bareAcquire), rueidis.NewLuaScript(bareRelease)
	keys := []string{list, "{" + name + "}:bare:held", "{" + name + "}:bare:sum"}
	const n = 5000
	bench.Run(b, bench.Figure{
		Name:  "backpressure/acquire",
		Setup: func(int) { servertest.Rest(b, c) },
		Bare: func(int) int {
			for range n {
				args := []string{uid.New() + " 100", "100"}
				if granted, err := acquire.Exec(b.Context(), c, keys, args).AsInt64(); err != nil || granted != 1 {
					b.Error(granted, err)
				}
				if err := release.Exec(b.Context(), c, keys, args).Error(); err != nil && !rueidis.IsRedisNil(err) {
					b.Error(err)
				}
			}
			return n
		},
		Ours: func(int) int {
			for range n {
				r, err := gate.Acquire(b.Context(), 100)
				if err == nil {
					err = r.Release(b.Context())
				}
				if err != nil {
					b.Error(err)
				}
			}
			return n
		},
	})
}

// BenchmarkLongestStop notes how long one command holds the server at most, with as many
// reservations as 10,000 producers make.
func BenchmarkLongestStop(b *testing.B) {
	c := redisxtest.NewStops(b, servertest.OwnRedis(b, "--auto-aof-rewrite-percentage", "0").Client(b))
	name := servertest.Prefix(b)
	list := "{" + name + "}:ready"
	gate, err := backpressure.New(b.Context(), c, name, backpressure.Config{Records: []backpressure.Source{{List: list}}})
	if err != nil {
		b.Fatal(err)
	}
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	longest := func(what string, f func()) {
		c.Reset()
		f()
		bench.Note(b, "backpressure/longest-stop: %s: %.1f ms (%s, %d commands)", what, float64(c.Longest.Microseconds())/1000, c.How(), c.Commands)
	}
	longest("10,000 reservations", func() {
		for range 10_000 {
			_, err := gate.TryAcquire(b.Context(), 1)
			must(err)
		}
	})
	longest("audit of 10,000 reservations", func() { _, err := gate.Audit(b.Context()); must(err) })
	longest("repair of 10,000 reservations", func() { _, err := gate.Repair(b.Context()); must(err) })
	held := "{" + name + "}:gate:held"
	members, err := c.Do(b.Context(), c.B().Zrange().Key(held).Min("0").Max("-1").Build()).AsStrSlice()
	must(err)
	for _, m := range members {
		must(c.Do(b.Context(), c.B().Zadd().Key(held).ScoreMember().ScoreMember(1, m).Build()).Error())
	}
	longest("stats while 10,000 have expired", func() { _, err := gate.Stats(b.Context()); must(err) })
	longest("10,000 reservations expire", func() {
		for range 12 {
			must(gate.Notify(b.Context()))
		}
	})
}
