package together_test

import (
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// Every package works with whatever options the caller's client has.
func TestClientOptions(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	for what, change := range map[string]func(o *rueidis.ClientOption){
		"RESP2":             func(o *rueidis.ClientOption) { o.AlwaysRESP2, o.DisableCache = true, true },
		"another database":  func(o *rueidis.ClientOption) { o.SelectDB = 5 },
		"one connection":    func(o *rueidis.ClientOption) { o.BlockingPoolSize, o.PipelineMultiplex = 1, -1 },
		"no pipelining":     func(o *rueidis.ClientOption) { o.DisableAutoPipelining = true },
		"always pipelining": func(o *rueidis.ClientOption) { o.AlwaysPipelining = true },
		"no retries":        func(o *rueidis.ClientOption) { o.DisableRetry = true },
		"reads from replicas": func(o *rueidis.ClientOption) {
			o.SendToReplicas = func(c rueidis.Completed) bool { return c.IsReadOnly() }
			o.Standalone.ReplicaAddress = o.InitAddress
		},
		"small buffers": func(o *rueidis.ClientOption) {
			o.ReadBufferEachConn, o.WriteBufferEachConn, o.RingScaleEachConn = 64, 64, 1
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			o := redisxtest.Options(t, own.URL)
			change(&o)
			c, err := rueidis.NewClient(o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			calls, check := openAll(t, c)
			for what, call := range calls {
				if err := call(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			check()
		})
	}
}

// What an operator does to a server while programs run: all scripts are forgotten, all clients are
// held, append-only is switched off and on, output buffers are small.
func TestOperators(t *testing.T) {
	t.Parallel()
	for what, commands := range map[string][][]string{
		"scripts are forgotten": {{"SCRIPT", "FLUSH"}},
		"clients are held":      {{"CLIENT", "PAUSE", "300", "ALL"}},
		"writes are held":       {{"CLIENT", "PAUSE", "300", "WRITE"}},
		"append-only is off":    {{"CONFIG", "SET", "appendonly", "no"}, {"CONFIG", "SET", "appendonly", "yes"}},
		"small output buffers":  {{"CONFIG", "SET", "client-output-buffer-limit", "normal 2mb 1mb 1"}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			own := servertest.OwnRedis(t)
			admin := own.Client(t)
			calls, check := openAll(t, own.Client(t))
			for what, call := range calls {
				for _, args := range commands {
					if err := admin.Do(t.Context(), admin.B().Arbitrary(args...).Build()).Error(); err != nil {
						t.Fatalf("%v: %v", args, err)
					}
				}
				if err := call(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			check()
		})
	}
}

// A server that is emptied while programs run: what was there is gone, calls may report that, and
// then every call works as on a new server.
func TestEmptiedServer(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	admin := own.Client(t)
	empty := func() {
		if err := admin.Do(t.Context(), admin.B().Flushall().Sync().Build()).Error(); err != nil {
			t.Error(err)
		}
	}
	calls, _ := openAll(t, own.Client(t))
	var wg sync.WaitGroup
	for _, call := range calls {
		wg.Go(func() {
			for range 50 {
				_ = call() // a reservation or a version may be gone
			}
		})
	}
	for range 20 {
		empty()
	}
	wg.Wait()
	empty()
	for what, call := range calls {
		if err := call(); err != nil {
			t.Errorf("the same program: %s: %v", what, err)
		}
	}
	calls, check := openAll(t, own.Client(t))
	for what, call := range calls {
		if err := call(); err != nil {
			t.Errorf("another program: %s: %v", what, err)
		}
	}
	check()
}

// The memory of the server runs out at any moment. What was refused has changed nothing, so when
// there is memory again, each call succeeds and every book is right.
func TestMemoryRunsOut(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	c, admin := own.Client(t), own.Client(t)
	setMemory := func(limit int64) {
		if err := admin.Do(t.Context(), admin.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", strconv.FormatInt(limit, 10)).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	used := func() (n int64) {
		info, err := admin.Do(t.Context(), admin.B().Info().Section("memory").Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(info, "used_memory:")
		if n, err = strconv.ParseInt(strings.TrimSpace(strings.SplitN(after, "\n", 2)[0]), 10, 64); err != nil {
			t.Fatal(err)
		}
		return n
	}
	refused := 0
	for room := int64(0); room < 40_000; room += 2000 {
		calls, check := openAll(t, c)
		setMemory(used() + room)
		failed := map[string]func() error{}
		for what, call := range calls {
			if call() != nil {
				failed[what] = call
			}
		}
		refused += len(failed)
		setMemory(0)
		for what, call := range failed {
			if err := call(); err != nil {
				t.Errorf("room of %d bytes: %s: %v", room, what, err)
			}
		}
		check()
	}
	if refused == 0 {
		t.Error("the server refused nothing, want some refusals")
	}
}
