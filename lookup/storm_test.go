package lookup_test

import (
	"context"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/redis/rueidis"
	"github.com/rs/zerolog"
)

// A refresh storm: 10 refreshers write versions as fast as they can, each entry of a version holding the version's own
// number, while 50 readers take snapshots and the connections of all are cut again and again. Every snapshot that
// anybody ever sees is one whole version.
func TestRefreshStorm(t *testing.T) {
	t.Parallel()
	const entries = 500
	opt, err := rueidis.ParseURL(servertest.RedisURL(t))
	if err != nil {
		t.Fatal(err)
	}
	proxy := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "redis", "127.0.0.1:0", opt.InitAddress[0])
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	defer proxy.Stop()
	opt.InitAddress = []string{proxy.Listen}
	client := func() rueidis.Client {
		c, err := rueidis.NewClient(opt)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
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

	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	var all sync.WaitGroup
	var refreshes, failures, seen, cuts atomic.Int64
	versions := make(map[string]bool)
	var mu sync.Mutex
	for range 10 {
		c := client()
		all.Add(1)
		go func() {
			defer all.Done()
			table := newTable(t, c, name, cfg)
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
		table := newTable(t, client(), name, lookup.Config[string, int]{MaxAge: cfg.MaxAge, Chunk: 50})
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
						<-tick.C // 50 busy loops would leave the others no time
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
	cut := time.NewTicker(300 * time.Millisecond)
	defer cut.Stop()
	for ctx.Err() == nil {
		<-cut.C
		proxy.Stop()
		err := proxy.Start()
		for ; err != nil && ctx.Err() == nil; err = proxy.Start() {
			<-cut.C // its port is taken for a moment: the cut lasts longer
		}
		if err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		cuts.Add(1)
	}
	all.Wait()
	t.Logf("%d refreshes, %d failed, %d cuts; the readers saw %d versions in %d snapshots", refreshes.Load(), failures.Load(), cuts.Load(), len(versions), seen.Load())
	if refreshes.Load() < 10 || len(versions) < 5 || cuts.Load() < 5 {
		t.Error("this was no storm")
	}
	if keys := keysOf(t, servertest.Redis(t), name); len(keys) > 100 {
		t.Errorf("%d keys are left", len(keys))
	}
}
