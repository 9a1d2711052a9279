package lookup_test

import (
	"context"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
)

// A refresh storm: 10 refreshers write versions as fast as they can, each entry of a version
// holding the version's own number, while 50 readers take snapshots and all connections are cut
// again and again. Every snapshot that any reader takes is one whole version.
func TestRefreshStorm(t *testing.T) {
	t.Parallel()
	const entries = 500
	proxy := redisxtest.NewProxy(t, servertest.RedisURL(t))
	var number atomic.Int64
	name := servertest.Prefix(t)
	cfg := lookup.Config[string, int]{MaxAge: 200 * time.Millisecond, Keep: 100 * time.Millisecond, Chunk: 50}
	cfg.Load = func(_ context.Context, put func(string, int) error) error {
		n := int(number.Add(1))
		for i := range entries {
			if err := put(strings.Repeat("k", i), n); err != nil {
				return err
			}
		}
		return nil
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	var refreshes, failures, seen, cuts atomic.Int64
	versions := make(map[string]bool)
	var mu sync.Mutex
	for range 10 {
		table := newTable(t, proxy.Client(t, nil), name, cfg)
		all.Add(1)
		go func() {
			defer all.Done()
			for ctx.Err() == nil {
				short, cancel := context.WithTimeout(ctx, time.Second)
				if r, err := table.Refresh(short); err != nil {
					failures.Add(1)
				} else if r.Done {
					refreshes.Add(1)
				}
				cancel()
			}
		}()
	}
	for range 5 { // processes
		table := newTable(t, proxy.Client(t, nil), name, lookup.Config[string, int]{MaxAge: cfg.MaxAge, Chunk: 50})
		all.Add(1)
		go func() { defer all.Done(); _ = table.Run(ctx) }()
		for range 10 { // readers of each
			all.Add(1)
			go func() {
				defer all.Done()
				last := ""
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				for ctx.Err() == nil {
					s, err := table.Snapshot()
					if err != nil || s.Version() == last {
						<-tick.C // 50 busy loops would starve the refreshers
						continue
					}
					last = s.Version()
					seen.Add(1)
					mu.Lock()
					versions[last] = true
					mu.Unlock()
					values := make(map[int]int)
					for _, v := range maps.Collect(s.All()) {
						values[v]++
					}
					if len(values) != 1 || s.Len() != entries {
						t.Errorf("version %s is a mix: %v", last, values)
						return
					}
				}
			}()
		}
	}
	// The storm lasts until it has been one. The deadline only detects a hang.
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return refreshes.Load() >= 20 && len(versions) >= 10 && cuts.Load() >= 10
	}
	hang := time.After(5 * time.Minute)
	const first = 300 * time.Millisecond
	for pause, done := first, int64(0); !enough() && !t.Failed(); {
		select {
		case <-time.After(pause):
		case <-hang:
			t.Fatalf("after 5 minutes: %d refreshes, %d failed, %d cuts", refreshes.Load(), failures.Load(), cuts.Load())
		}
		// A machine on which no refresh ends between two cuts gets more time.
		if now := refreshes.Load(); now == done {
			pause *= 2
		} else {
			pause, done = first, now
		}
		proxy.Cut()
		cuts.Add(1)
	}
	cancel()
	all.Wait()
	t.Logf("%d refreshes, %d failed, %d cuts; the readers saw %d versions in %d snapshots", refreshes.Load(), failures.Load(), cuts.Load(), len(versions), seen.Load())
	// The ten parts of the current version stay, with some keys of the table. All others expire, also
	// those of versions that were cut off.
	client := servertest.Redis(t)
	var stay []string
	for _, key := range keysOf(t, client, name) {
		ms, err := client.Do(t.Context(), client.B().Pttl().Key(key).Build()).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		if ms == -1 {
			stay = append(stay, key)
		}
	}
	if len(stay) > 15 {
		t.Errorf("%d keys never expire, want at most 15: %v", len(stay), stay)
	}
}
