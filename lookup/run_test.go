package lookup_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/redis/rueidis"
)

// logged is a logger whose text a test reads.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// With Run, the signal brings a new version to every process: they poll twice an hour only.
func TestSignal(t *testing.T) {
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		src := &source{m: map[string]int{"v": 0}}
		writer := newTable(t, c, name, lookup.Config[string, int]{Load: lookup.FromMap(src.load)})
		refresh(t, writer)
		var log logged
		readers := make([]*lookup.Table[string, int], 5)
		for i := range readers {
			readers[i] = newTable(t, c, name, lookup.Config[string, int]{MaxAge: time.Hour, Logger: log.logger()})
			run(t, readers[i])
		}
		sees := func(version string) func() bool {
			return func() bool {
				for _, r := range readers {
					if s, err := r.Snapshot(); err != nil || s.Version() != version {
						return false
					}
				}
				return true
			}
		}
		s, _ := writer.Snapshot()
		eventually(t, "all readers have the first version", sees(s.Version()))
		// Run may not have subscribed yet, and then misses the first signals.
		eventually(t, "all readers have subscribed", func() bool {
			n, err := c.Do(t.Context(), c.B().PubsubNumsub().Channel("{"+name+"}:lookup:changed").Build()).AsIntMap()
			return err == nil && n["{"+name+"}:lookup:changed"] == int64(len(readers))
		})
		for i := range 5 {
			src.set(map[string]int{"v": i}, nil)
			r := refresh(t, writer)
			eventually(t, "all readers have the new version", sees(r.Version))
		}
		if got := log.String(); got != "" {
			t.Errorf("the log has %q, want nothing", got)
		}
	})
}

// A new version arrives although no signal is ever sent: the test sets the current version.
func TestLostSignals(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	src := &source{m: map[string]int{"v": 1}}
	writer := newTable(t, c, name, lookup.Config[string, int]{Load: lookup.FromMap(src.load)})
	refresh(t, writer)
	reader := newTable(t, c, name, lookup.Config[string, int]{MaxAge: 400 * time.Millisecond})
	run(t, reader)
	eventually(t, "the first version", func() bool { _, err := reader.Snapshot(); return err == nil })
	setByHand(t, c, name, 2)
	eventually(t, "the new version", func() bool { s, _ := reader.Snapshot(); return s.Version() == "by-hand" })
}

// setByHand makes a version current that has one entry, without a signal.
func setByHand(t *testing.T, c rueidis.Client, name string, value int) {
	t.Helper()
	key := "{" + name + "}:lookup:"
	for _, cmd := range []rueidis.Completed{
		c.B().Hset().Key(key+"v:by-hand:0").FieldValue().FieldValue("v", strconv.Itoa(value)).Build(),
		c.B().Set().Key(key + "current").Value(fmt.Sprintf("1 by-hand 1 1 %d", serverTime(t, c).UnixMilli())).Build(),
	} {
		if err := c.Do(t.Context(), cmd).Error(); err != nil {
			t.Fatal(err)
		}
	}
}

// serverTime returns the clock of a server.
func serverTime(t testing.TB, c rueidis.Client) time.Time {
	t.Helper()
	v, err := c.Do(t.Context(), c.B().Time().Build()).AsStrSlice()
	if err != nil || len(v) != 2 {
		t.Fatal(v, err)
	}
	s, err1 := strconv.ParseInt(v[0], 10, 64)
	us, err2 := strconv.ParseInt(v[1], 10, 64)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return time.UnixMicro(s*1_000_000 + us).Truncate(time.Millisecond)
}

// When Redis is away the snapshot stays; StaleFail fails after MaxAge. The log has the outage and
// the recovery once.
func TestStale(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t, "--appendfsync", "always") // the version survives the kill
	c := s.Client(t)
	src := &source{m: map[string]int{"a": 1}}
	var log logged
	serve := newTable(t, c, "w", lookup.Config[string, int]{Load: lookup.FromMap(src.load), MaxAge: 200 * time.Millisecond, Logger: log.logger()})
	fail := newTable(t, c, "w", lookup.Config[string, int]{MaxAge: 200 * time.Millisecond, Stale: lookup.StaleFail})
	refresh(t, serve)
	run(t, serve)
	run(t, fail)
	eventually(t, "both have it", func() bool { _, err := fail.Snapshot(); return err == nil })
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "StaleFail fails", func() bool { _, err := fail.Snapshot(); return errors.Is(err, lookup.ErrStale) })
	if _, err := fail.GetMany(t.Context(), []string{"a"}); !errors.Is(err, lookup.ErrStale) || !strings.Contains(err.Error(), `table "w"`) {
		t.Errorf("GetMany: got %v, want ErrStale with the name of the table", err)
	}
	if snap, err := serve.Snapshot(); err != nil || snap.Len() != 1 {
		t.Errorf("StaleServe: got %v, want the snapshot", err)
	}
	eventually(t, "the outage is logged", func() bool { return strings.Contains(log.String(), "polling fails") })
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "StaleFail recovers", func() bool { _, err := fail.Snapshot(); return err == nil })
	eventually(t, "the recovery is logged", func() bool { return strings.Contains(log.String(), "polling works again") })
}

// An outage is logged once for each different error, however often it is retried.
func TestOutageIsLoggedOnce(t *testing.T) {
	t.Parallel()
	proxy := redisxtest.NewProxy(t, servertest.RedisURL(t))
	name := servertest.Prefix(t)
	src := &source{m: map[string]int{"a": 1}, err: errors.New("the source is away")}
	var log logged
	table := newTable(t, proxy.Client(t, nil), name, lookup.Config[string, int]{
		Load: lookup.FromMap(src.load), MaxAge: 20 * time.Millisecond, RefreshInterval: time.Hour, Logger: log.logger(),
	})
	run(t, table)
	eventually(t, "the refresh was tried ten times", func() bool { return src.loads.Load() >= 10 })
	src.set(map[string]int{"a": 1}, nil)
	eventually(t, "the recovery is logged", func() bool { return strings.Contains(log.String(), "polling works again") })
	if got := strings.Count(log.String(), "the source is away"); got != 1 {
		t.Errorf("the outage is logged %d times, want once:\n%s", got, log.String())
	}
}

// Of all processes that Run with a RefreshInterval, one refreshes a version when it is that old, by
// the server's clock.
func TestRefreshInterval(t *testing.T) {
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		const interval = 300 * time.Millisecond
		name := servertest.Prefix(t)
		var mu sync.Mutex
		var loads []time.Time
		load := func(context.Context) (map[string]int, error) {
			mu.Lock()
			defer mu.Unlock()
			loads = append(loads, serverTime(t, c))
			return map[string]int{"a": 1}, nil
		}
		var tables []*lookup.Table[string, int]
		for range 4 {
			table := newTable(t, c, name, lookup.Config[string, int]{Load: lookup.FromMap(load), RefreshInterval: interval})
			tables = append(tables, table)
			run(t, table)
		}
		eventually(t, "three loads", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(loads) >= 3
		})
		mu.Lock()
		for i := 1; i < len(loads); i++ {
			if d := loads[i].Sub(loads[i-1]); d < interval {
				t.Errorf("load %d began %v after the one before, want at least %v", i, d, interval)
			}
		}
		mu.Unlock()
		eventually(t, "all have a snapshot", func() bool {
			for _, table := range tables {
				if _, err := table.Snapshot(); err != nil {
					return false
				}
			}
			return true
		})
	})
}

// beforeAsk is a client that calls f before the nth script that asks which version is current.
type beforeAsk struct {
	rueidis.Client
	left *atomic.Int32
	f    func()
}

func (c beforeAsk) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	if words := cmd.Commands(); len(words) == 5 && words[0] == "EVALSHA" && c.left.Add(-1) == 0 { // two keys, no argument
		c.f()
	}
	return c.Client.Do(ctx, cmd)
}

// A table that another process refreshes after this one has seen that it is due is read, and not
// refreshed again.
func TestRefreshedMeanwhile(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		theirs, ours := &source{m: map[string]int{"v": 1}}, &source{m: map[string]int{"v": 2}}
		other := newTable(t, c, name, lookup.Config[string, int]{Load: lookup.FromMap(theirs.load)})
		refresh(t, other)
		var version atomic.Value
		hooked := beforeAsk{Client: c, left: &atomic.Int32{}, f: func() {
			r, err := other.Refresh(context.WithoutCancel(t.Context()))
			if err != nil {
				t.Error(err)
			}
			version.Store(r.Version)
		}}
		table := newTable(t, hooked, name, lookup.Config[string, int]{
			Load: lookup.FromMap(ours.load), RefreshInterval: time.Hour, MaxAge: time.Hour,
		})
		if err := table.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		// The version is two hours old.
		key := "{" + name + "}:lookup:current"
		text, err := c.Do(t.Context(), c.B().Get().Key(key).Build()).ToString()
		f := strings.Fields(text)
		if err != nil || len(f) != 5 {
			t.Fatalf("got %q, %v", text, err)
		}
		made, err := strconv.ParseInt(f[4], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		f[4] = strconv.FormatInt(made-2*time.Hour.Milliseconds(), 10)
		if err := c.Do(t.Context(), c.B().Set().Key(key).Value(strings.Join(f, " ")).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		hooked.left.Store(2) // the poll asks, and then the refresh
		run(t, table)
		eventually(t, "the table has a new version", func() bool {
			s, err := table.Snapshot()
			return err == nil && version.Load() != nil && s.Version() != f[1]
		})
		if s, _ := table.Snapshot(); s.Version() != version.Load() {
			t.Errorf("the table was refreshed again: got version %s, want %s", s.Version(), version.Load())
		}
	})
}
