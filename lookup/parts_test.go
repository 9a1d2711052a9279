package lookup_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/redis/rueidis"
)

// numbers is a source of n entries.
func numbers(n int) lookup.Loader[string, int] {
	return func(_ context.Context, put func(string, int) error) error {
		for i := range n {
			if err := put(strconv.Itoa(i), i); err != nil {
				return err
			}
		}
		return nil
	}
}

// partsOf returns the keys of the parts of a version, in their order.
func partsOf(t *testing.T, c rueidis.Client, name, version string) []string {
	t.Helper()
	keys := keysOf(t, c, name+"}:lookup:v:"+version)
	slices.SortFunc(keys, func(a, b string) int { return partOf(t, a) - partOf(t, b) })
	return keys
}

func partOf(t *testing.T, key string) int {
	t.Helper()
	n, err := strconv.Atoi(key[strings.LastIndexByte(key, ':')+1:])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func ttlOf(t *testing.T, c rueidis.Client, key string) int64 {
	t.Helper()
	ttl, err := c.Do(t.Context(), c.B().Pttl().Key(key).Build()).AsInt64()
	if err != nil {
		t.Fatal(err)
	}
	return ttl
}

// A version consists of small hashes: none has more entries than a command carries, those of the
// current version never expire, and those of an old one expire one after the other.
func TestParts(t *testing.T) {
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		const entries, chunk = 1050, 100
		table := newTable(t, c, name, lookup.Config[string, int]{Load: numbers(entries), Chunk: chunk})
		first := refresh(t, table)
		parts := partsOf(t, c, name, first.Version)
		if len(parts) != 11 {
			t.Fatalf("%d entries are in %d parts, want 11", entries, len(parts))
		}
		sum := int64(0)
		for _, key := range parts {
			n, err := c.Do(t.Context(), c.B().Hlen().Key(key).Build()).AsInt64()
			if err != nil || n > chunk {
				t.Errorf("%s has %d entries, %v, want at most %d", key, n, err, chunk)
			}
			if ttl := ttlOf(t, c, key); ttl != -1 {
				t.Errorf("%s is current and expires in %d ms", key, ttl)
			}
			sum += n
		}
		if sum != entries {
			t.Errorf("the parts have %d entries, want %d", sum, entries)
		}
		refresh(t, table)
		// At one moment: a script reads them all.
		ttls, err := c.Do(t.Context(), c.B().Eval().Script(`local ttls = {}
			for i, key in ipairs(KEYS) do ttls[i] = redis.call('PTTL', key) end
			return ttls`).Numkeys(int64(len(parts))).Key(parts...).Build()).AsIntSlice()
		if err != nil || len(ttls) != len(parts) {
			t.Fatal(ttls, err)
		}
		last := int64(0)
		for i, key := range parts {
			ttl := ttls[i]
			if ttl <= last || ttl > lookup.DefaultKeep.Milliseconds()+2*int64(len(parts)) {
				t.Errorf("%s of the old version expires in %d ms, the one before in %d, want a moment later", key, ttl, last)
			}
			last = ttl
		}
	})
}

// A part also ends at a megabyte.
func TestPartsOfLargeValues(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	table, err := lookup.New(t.Context(), c, name, lookup.Config[string, string]{
		Load: func(_ context.Context, put func(string, string) error) error {
			for i := range 30 {
				if err := put(strconv.Itoa(i), strings.Repeat("x", 300_000)); err != nil {
					return err
				}
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := table.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(partsOf(t, c, name, r.Version)); n != 8 {
		t.Errorf("9 MB are in %d parts, want 8", n)
	}
}

// The parts of a large table become larger, so that the script that names them all stays short.
func TestPartsGrow(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	table := newTable(t, c, name, lookup.Config[string, int]{Load: numbers(11_500), Chunk: 1})
	r := refresh(t, table)
	parts := partsOf(t, c, name, r.Version)
	if len(parts) != 1003 {
		t.Errorf("11,500 entries are in %d parts, want 1,000 of one entry, 2 of 5,000 and one of the rest", len(parts))
	}
	if s, err := table.Snapshot(); err != nil || s.Len() != 11_500 {
		t.Errorf("got %v, want 11,500 entries", err)
	}
	if table := newTable(t, c, name, lookup.Config[string, int]{}); table.Sync(t.Context()) != nil {
		t.Error("another process cannot read it")
	}
}

// The description of the current version is damaged or deleted: its parts are named by nothing. The
// next refresh lets them expire, and leaves the rest alone.
func TestNothingStaysOfADamagedVersion(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		table := newTable(t, c, name, lookup.Config[string, int]{Load: numbers(50), Chunk: 10})
		first := refresh(t, table)
		neighbour := newTable(t, c, name+"x", lookup.Config[string, int]{Load: numbers(10)})
		refresh(t, neighbour)
		const deleted = "deleted"
		for _, damage := range []string{"1 what is this", "", "garbage", "1 x 5 five 1", deleted} {
			cmd := c.B().Set().Key("{" + name + "}:lookup:current").Value(damage).Build()
			if damage == deleted {
				cmd = c.B().Arbitrary("DEL").Keys("{" + name + "}:lookup:current").Build()
			}
			if err := c.Do(t.Context(), cmd).Error(); err != nil {
				t.Fatal(err)
			}
			second := refresh(t, table)
			for _, key := range partsOf(t, c, name, first.Version) {
				if ttl := ttlOf(t, c, key); ttl == -1 {
					t.Errorf("current was %q: %s of the lost version never expires", damage, key)
				}
			}
			for _, key := range partsOf(t, c, name, second.Version) {
				if ttl := ttlOf(t, c, key); ttl != -1 {
					t.Errorf("current was %q: %s of the current version expires in %d ms", damage, key, ttl)
				}
			}
			first = second
		}
		if err := newTable(t, c, name+"x", lookup.Config[string, int]{}).Sync(t.Context()); err != nil {
			t.Errorf("the other table: %v", err)
		}
	})
}

// A program that dies while it writes a version leaves nothing that does not expire, wherever it
// dies.
func TestDeathLeavesNothing(t *testing.T) {
	t.Parallel()
	url, direct := servertest.RedisURL(t), servertest.Redis(t)
	for _, at := range []int{1, 10, 11, 55} {
		p := redisxtest.NewProxy(t, url)
		name := servertest.Prefix(t) + strconv.Itoa(at)
		ctx, die := context.WithCancel(t.Context())
		table := newTable(t, p.Client(t, nil), name, lookup.Config[string, int]{
			Chunk: 10,
			Load: func(ctx context.Context, put func(string, int) error) error {
				for i := range 100 {
					if i == at { // from here on Redis gets nothing of this program
						p.Freeze()
						die()
					}
					if err := put(strconv.Itoa(i), i); err != nil {
						return err
					}
				}
				return nil
			},
		})
		if _, err := table.Refresh(ctx); err == nil {
			t.Errorf("dead at entry %d: Refresh has succeeded", at)
		}
		keys := keysOf(t, direct, name)
		if len(keys) == 0 {
			t.Errorf("dead at entry %d: no key, want the lock at least", at)
		}
		for _, key := range keys {
			if ttl := ttlOf(t, direct, key); ttl <= 0 {
				t.Errorf("dead at entry %d: %s has a time to live of %d ms", at, key, ttl)
			}
		}
	}
}

// While its slot moves, a refresh is refused as a whole: the old version keeps no time to live by
// half, and none stays forever.
func TestRefreshWhileTheSlotMoves(t *testing.T) {
	servertest.EachCluster(t, func(t *testing.T, cl *servertest.Cluster) {
		const name = "moving"
		tag := "{" + name + "}:lookup:"
		slot := cl.Slot(t, "{"+name+"}")
		from := slot * servertest.Masters / 16384
		to := (from + 1) % servertest.Masters
		table := newTable(t, cl.Client, name, lookup.Config[string, int]{Load: numbers(50), Chunk: 10, Keep: time.Hour})
		old := refresh(t, table)
		cl.Begin(t, slot, from, to)
		cl.Move(t, tag+"current", from, to)
		cl.Move(t, tag+"v:"+old.Version+":3", from, to)
		for what, call := range map[string]func(context.Context) error{
			"Refresh": func(ctx context.Context) error { _, err := table.Refresh(ctx); return err },
			"Sync":    table.Sync,
			"Stats":   func(ctx context.Context) error { _, err := table.Stats(ctx); return err },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // a refused call waits for the slot
			if err := call(ctx); err == nil {
				t.Errorf("%s ran on half of the slot, want a refusal", what)
			}
			cancel()
		}
		cl.Finish(t, slot, from, to)
		if s, err := table.Stats(t.Context()); err != nil || s.Version != old.Version {
			t.Errorf("after the move: got %+v, %v, want version %s", s, err, old.Version)
		}
		r := refresh(t, table)
		keys, err := cl.Do(t, to, "KEYS", tag+"*").AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			ttl, err := cl.Do(t, to, "PTTL", key).AsInt64()
			current := key == tag+"current" || strings.HasPrefix(key, tag+"v:"+r.Version)
			if err != nil || (ttl == -1) != current {
				t.Errorf("%s has a time to live of %d ms, %v; of the current version: %v", key, ttl, err, current)
			}
		}
		cl.Begin(t, slot, to, from) // back, for the next run
		cl.Finish(t, slot, to, from)
	})
}

// A table of a later layout is left alone.
func TestLayoutIsUnknown(t *testing.T) {
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		table := newTable(t, c, name, lookup.Config[string, int]{Load: numbers(1)})
		refresh(t, table)
		key := "{" + name + "}:lookup:current"
		const later = "2 and whatever comes then"
		if err := c.Do(t.Context(), c.B().Set().Key(key).Value(later).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		_, refreshed := table.Refresh(t.Context())
		_, counted := table.Stats(t.Context())
		for what, err := range map[string]error{"Refresh": refreshed, "Sync": table.Sync(t.Context()), "Stats": counted} {
			const text = `the table has layout 2, this program needs layout 1`
			if !errors.Is(err, lookup.ErrLayout) || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: got %v, want ErrLayout with %q", what, err, text)
			}
		}
		if got, _ := c.Do(t.Context(), c.B().Get().Key(key).Build()).ToString(); got != later {
			t.Errorf("the current version is %q, want it unchanged", got)
		}
	})
}

// Keys that another program deleted or changed: a refresh mends them, and Run does not wait until
// it is due.
func TestDamageIsMended(t *testing.T) {
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		tag := "{" + name + "}:lookup:"
		writer := newTable(t, c, name, lookup.Config[string, int]{Load: numbers(50), Chunk: 10})
		for i, damage := range []func(version string) rueidis.Completed{
			func(string) rueidis.Completed { return c.B().Set().Key(tag + "current").Value("nonsense").Build() },
			func(string) rueidis.Completed { return c.B().Set().Key(tag + "current").Value("").Build() },
			func(string) rueidis.Completed { return c.B().Set().Key(tag + "current").Value("1 v many 2 3").Build() },
			func(v string) rueidis.Completed {
				return c.B().Set().Key(tag + "current").Value("1 " + v + " 9223372036854775807 9223372036854775807 3").Build()
			},
			func(v string) rueidis.Completed {
				return c.B().Set().Key(tag + "current").Value("1 " + v + " 4611686018427387904 5 3").Build()
			},
			func(v string) rueidis.Completed {
				return c.B().Set().Key(tag + "current").Value("1 " + v + " 50 5 9223372036854775807").Build()
			},
			func(v string) rueidis.Completed {
				return c.B().Set().Key(tag + "current").Value("1 " + v + " 50 5 -1").Build()
			},
			func(string) rueidis.Completed { return c.B().Del().Key(tag + "current").Build() },
			func(v string) rueidis.Completed { return c.B().Del().Key(tag + "v:" + v + ":2").Build() },
			func(v string) rueidis.Completed { return c.B().Hdel().Key(tag + "v:" + v + ":4").Field("42").Build() },
		} {
			r := refresh(t, writer)
			if err := c.Do(t.Context(), damage(r.Version)).Error(); err != nil {
				t.Fatal(err)
			}
			reader := newTable(t, c, name, lookup.Config[string, int]{Load: numbers(50), Chunk: 10, RefreshInterval: time.Hour})
			if err := reader.Sync(t.Context()); !errors.Is(err, lookup.ErrIncomplete) && !errors.Is(err, lookup.ErrNotLoaded) ||
				!strings.Contains(err.Error(), name) {
				t.Errorf("damage %d: got %v, want ErrIncomplete or ErrNotLoaded with the name", i, err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- reader.Run(ctx) }()
			eventually(t, fmt.Sprint("damage ", i, " is mended"), func() bool { s, err := reader.Snapshot(); return err == nil && s.Len() == 50 })
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// A version whose time lies in the future, because the server's clock was set back, is refreshed at
// once.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{m.Addr()}, DisableCache: true, ForceSingleClient: true, AlwaysRESP2: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	now := time.UnixMilli(1_700_000_000_000)
	m.SetTime(now)
	src := &source{m: map[string]int{"a": 1}}
	table := newTable(t, c, "w", lookup.Config[string, int]{Load: lookup.FromMap(src.load), RefreshInterval: time.Hour, MaxAge: 40 * time.Millisecond})
	first := refresh(t, table)
	m.SetTime(now.Add(-time.Hour))
	if s, err := table.Stats(t.Context()); err != nil || s.Age != -time.Hour {
		t.Fatalf("Stats: got %+v, %v, want an age of -1h", s, err)
	}
	run(t, table)
	eventually(t, "a refresh", func() bool { s, err := table.Stats(t.Context()); return err == nil && s.Version != first.Version })
	if s, err := table.Stats(t.Context()); err != nil || s.Age != 0 {
		t.Errorf("Stats: got %+v, %v, want an age of 0", s, err)
	}
	m.SetTime(now.Add(2 * time.Hour)) // and ahead
	eventually(t, "another refresh", func() bool { return src.loads.Load() >= 3 })
}

// The lock of a refresher that died before the clock was set back does not outlive any other.
func TestLockAfterClockSetBack(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	lock := "{" + name + "}:lookup:lock"
	table := newTable(t, c, name, lookup.Config[string, int]{Load: numbers(1)})
	for what, set := range map[string]rueidis.Completed{
		"the clock was set back":         c.B().Set().Key(lock).Value("dead").Px(time.Hour).Build(),
		"another program wrote the lock": c.B().Set().Key(lock).Value("never ends").Build(),
	} {
		if err := c.Do(t.Context(), set).Error(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { _, err := table.Refresh(ctx); done <- err }()
		eventually(t, what+": the lock lives no longer than any other", func() bool {
			ttl := ttlOf(t, c, lock)
			return ttl >= 0 && ttl <= 10_000
		})
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want %v", what, err, context.Canceled)
		}
	}
}

// An operator makes another version current while a refresh is under way. The refresh leaves it in
// place: the script knows the parts of the version that it read at first, and those of the other
// one would never expire.
func TestVersionChangesDuringARefresh(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx, name := t.Context(), servertest.Prefix(t)
		current := "{" + name + "}:lookup:current"
		describe := func() string {
			t.Helper()
			text, err := c.Do(ctx, c.B().Get().Key(current).Build()).ToString()
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		during := func() {}
		table := newTable(t, c, name, lookup.Config[string, int]{Chunk: 10, Load: func(ctx context.Context, put func(string, int) error) error {
			during()
			return numbers(25)(ctx, put)
		}})
		refresh(t, table)
		first := describe()
		refresh(t, table)
		during = func() {
			if err := c.Do(ctx, c.B().Set().Key(current).Value(first).Build()).Error(); err != nil {
				t.Error(err)
			}
		}
		if _, err := table.Refresh(ctx); !errors.Is(err, lookup.ErrOvertaken) {
			t.Errorf("got %v, want %v", err, lookup.ErrOvertaken)
		}
		if got := describe(); got != first {
			t.Errorf("current is %q, want that of the operator, %q", got, first)
		}
		during = func() {}
		refresh(t, table)
		for _, key := range partsOf(t, c, name, strings.Fields(first)[1]) {
			if ttl := ttlOf(t, c, key); ttl == -1 {
				t.Errorf("%s of a former version never expires", key)
			}
		}
	})
}
