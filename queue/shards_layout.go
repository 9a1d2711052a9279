package queue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// ShardName returns the name of shard i of n, from 0. It panics if there is no such shard, or if
// n is not 1 to MaxShards.
func ShardName(name string, i, n int) string {
	if n < 1 || n > MaxShards || i < 0 || i >= n {
		panic(fmt.Sprintf("queue: ShardName: i is %d of %d, must be 0 to n-1, and n 1 to %d", i, n, MaxShards))
	}
	for k := 0; ; k++ {
		shard := name + "." + strconv.Itoa(i)
		if k > 0 {
			shard += "." + strconv.Itoa(k)
		}
		if slot(shard)*n/slots == i {
			return shard
		}
	}
}

const slots = 16384

// crc16 is the table of the CRC16 with the polynomial 0x1021, by the upper byte.
var crc16 = func() (table [256]uint16) {
	for i := range table {
		crc := uint16(i) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
		table[i] = crc
	}
	return table
}()

// slot returns the cluster slot of a hash tag.
func slot(tag string) int {
	var crc uint16
	for i := range len(tag) {
		crc = crc<<8 ^ crc16[byte(crc>>8)^tag[i]]
	}
	return int(crc) % slots
}

// ShardsError is ErrConfig with both numbers of shards: that of the data and that of this program.
type ShardsError struct {
	Name       string
	Have, Want int
	// Records are those in the shards that this program would abandon. Where a key places the records,
	// another number moves keys between shards, so Records counts those in all shards. 0: the user has
	// no right to change the number, or the number was changed.
	Records int64
	// Running reports that the number was changed while this program ran, or began to run.
	Running bool
}

func (e *ShardsError) Error() string {
	text := fmt.Sprintf("queue: invalid configuration: %s has %d shards, this program wants %d, and ", e.Name, e.Have, e.Want)
	if e.Running {
		return fmt.Sprintf("queue: invalid configuration: the number of shards of %s was changed to %d, this program has %d: start it with %[2]d", e.Name, e.Have, e.Want)
	}
	if e.Records == 0 {
		return text + "its user may not change the number"
	}
	return text + fmt.Sprintf("%d records would be in the wrong shard: drain them first", e.Records)
}

// Is reports whether target is ErrConfig.
func (e *ShardsError) Is(target error) bool { return target == ErrConfig }

// shardsLayout is what Redis holds of a sharded queue: "3", or "3 keyed" when a key places its
// records.
type shardsLayout struct {
	n     int
	keyed bool
}

const keyedLayout = " keyed"

func (l shardsLayout) String() string {
	text := strconv.Itoa(l.n)
	if l.keyed {
		text += keyedLayout
	}
	return text
}

func parseShardsLayout(name, text string) (l shardsLayout, err error) {
	number, keyed := strings.CutSuffix(text, keyedLayout)
	if l.n, err = strconv.Atoi(number); err != nil || l.n < 1 || l.n > MaxShards {
		return l, fmt.Errorf("%w: the number of shards of %s in Redis is %q, must be 1 to %d", ErrConfig, name, cut(text, maxText), MaxShards)
	}
	l.keyed = keyed
	return l, nil
}

// shardsKey is the key of the layout of a queue with shards.
func shardsKey(name string) string { return "{" + name + "}:queue:shards" }

// readyKey and statKey are keys of the queue without shards of the same name.
func readyKey(name string) string { return "{" + name + "}:ready" }
func statKey(name string) string  { return "{" + name + "}:queue:stat" }

// recordShardsScript sets the layout of the shards, if it is still the one that the caller has
// seen. It returns the one that holds afterwards.
var recordShardsScript = redisx.NewScript(`local layout, never = KEYS[1], KEYS[2]
local seen, want = ARGV[1], ARGV[2]
local have = redis.call('GET', layout) or ''
if have ~= seen then return have end
redis.call('SET', layout, want)
return want`)

// recordLayout compares the layout of the shards with the one in Redis, and records it.
func (s *Shards) recordLayout(ctx context.Context, client rueidis.Client, cfg Config) error {
	key, never := shardsKey(s.name), "{"+s.name+"}:queue:never"
	server, err := redisx.Open(ctx, client, never)
	if err != nil {
		return wrap("open "+s.name, err)
	}
	s.watch.server, s.watch.key = server, key
	s.watch.begun.Store(time.Now().UnixNano())
	layout := redisx.KeyType{Key: key, Type: "string"}
	stored := server.ReadAll(ctx, func() []rueidis.Completed {
		return []rueidis.Completed{
			server.Command("GET", key), server.Command("LLEN", readyKey(s.name)),
			server.Command("HMGET", statKey(s.name), "delayed", "inflight", "dead"),
		}
	})
	have, err := stored[0].ToString()
	if err != nil && !rueidis.IsRedisNil(err) {
		return wrapKeys(ctx, server, "open "+s.name, err, layout)
	}
	if err := s.checkUnsharded(ctx, have != "", stored[1], stored[2]); err != nil {
		return err
	}
	old := shardsLayout{n: len(s.queues)}
	for {
		if have != "" {
			if old, err = parseShardsLayout(s.name, have); err != nil {
				return err
			}
			if err := s.checkChange(ctx, client, old, cfg); err != nil {
				return err
			}
			s.keyed = s.keyed || old.keyed // a program without keyOf leaves it as it is
		}
		want := shardsLayout{len(s.queues), s.keyed}.String()
		if have == want {
			return nil
		}
		call := redisx.Call{Script: recordShardsScript, Keys: []string{key, never}, Args: []string{have, want}, AllowOOM: drains}
		have, err = server.Run(ctx, call).ToString()
		if redisx.NoPermission(err) {
			if old.n != len(s.queues) {
				return &ShardsError{Name: s.name, Have: old.n, Want: len(s.queues)}
			}
			return nil // a reader
		}
		if err != nil {
			return wrapKeys(ctx, server, "open "+s.name, err, layout)
		}
	}
}

// checkUnsharded looks for records in a queue without shards of the same name, by the length of its
// list and its books. If s has no layout yet, these are the records of that queue: an error. After
// that a producer has pushed to the wrong list: a warning, because the programs must go on.
func (s *Shards) checkUnsharded(ctx context.Context, sharded bool, ready, books rueidis.RedisResult) error {
	n, err := ready.AsInt64()
	if err != nil {
		return wrapKeys(ctx, s.watch.server, "open "+s.name, err, redisx.KeyType{Key: readyKey(s.name), Type: "list"})
	}
	counts, err := books.AsStrSlice() // "" for a field that is not there
	if err != nil {
		return wrapKeys(ctx, s.watch.server, "open "+s.name, err, redisx.KeyType{Key: statKey(s.name), Type: "hash"})
	}
	for _, c := range counts {
		k, _ := strconv.ParseInt(c, 10, 64)
		n += k
	}
	switch {
	case n == 0:
		return nil
	case !sharded:
		return fmt.Errorf("%w: NewShards: %s is a queue without shards and has %d records, must be empty: drain it first", ErrConfig, s.name, n)
	}
	s.queues[0].cfg.Logger.WarnContext(ctx, "queue: records are in the list of the queue's own name, which no program leases; push them to the shards",
		"queue", s.name, "records", n)
	return nil
}

// checkChange returns an error if the change from another layout would lose or scatter records.
func (s *Shards) checkChange(ctx context.Context, client rueidis.Client, old shardsLayout, cfg Config) error {
	if old.n != len(s.queues) {
		left, err := s.left(ctx, client, old, cfg)
		if err != nil {
			return err
		}
		if left > 0 {
			return &ShardsError{Name: s.name, Have: old.n, Want: len(s.queues), Records: left}
		}
	}
	if s.keyOf == nil || old.keyed {
		return nil
	}
	st, err := s.Stats(ctx)
	if err != nil {
		return err
	}
	if n := st.Depth() + st.Dead; n > 0 {
		return fmt.Errorf("%w: NewShards: keyOf is set, must be nil until %[2]s is empty: its %[3]d records were pushed without a key", ErrConfig, s.name, n)
	}
	return nil
}

// left returns how many records of an old layout would be in the wrong shard: those in shards that
// are not shards of s, and with a key those in all shards.
func (s *Shards) left(ctx context.Context, client rueidis.Client, old shardsLayout, cfg Config) (int64, error) {
	left := int64(0)
	for i := range old.n {
		shard := ShardName(s.name, i, old.n)
		q := s.byName[shard]
		if q != nil && !old.keyed && !s.keyed {
			continue
		}
		if q == nil {
			var err error
			if q, err = New(ctx, client, shard, Config{Logger: cfg.Logger, Eviction: EvictionIgnore}); err != nil {
				return 0, err
			}
		}
		x, err := q.Stats(ctx)
		if err != nil {
			return 0, err
		}
		left += x.Depth() + x.Dead
	}
	return left, nil
}
