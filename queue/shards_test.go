package queue_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

func TestShards(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		cfg := quick
		cfg.Logger = quiet
		s, err := queue.NewShards(t.Context(), c, servertest.Prefix(t), 3, nil, cfg)
		must(t, err)
		ctx := t.Context()
		_, err = s.TryLease(ctx, queue.LeaseOptions{})
		wantErr(t, err, queue.ErrEmpty)
		must(t, s.Push(ctx, records(0, 90)...))
		seen := map[string]int{}
		from := map[string]int{}
		for i := range 9 {
			b, err := s.TryLease(ctx, queue.LeaseOptions{Records: 10})
			must(t, err)
			from[b.Queue]++
			if i%3 == 2 && len(from) != 3 {
				t.Fatalf("unfair: %v", from)
			}
			for _, p := range b.Payloads {
				seen[string(p)]++
			}
			must(t, s.Extend(ctx, b, time.Minute))
			must(t, s.Handoff(ctx, b))
			if n, err := s.Ack(ctx, b.ID); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		st, err := s.Stats(ctx)
		must(t, err)
		if len(seen) != 90 || st.Acked != 90 || st.Off() != 0 {
			t.Fatalf("%d seen, %+v", len(seen), st)
		}
		// Whoever waits is woken by a push to any of them.
		for range 6 {
			got := make(chan *queue.Batch, 1)
			go func() {
				b, err := s.Lease(ctx, queue.LeaseOptions{})
				if err != nil {
					t.Error(err)
				}
				got <- b
			}()
			must(t, s.Push(ctx, []byte("x")))
			b := <-got
			must(t, s.Release(ctx, b, queue.ReleaseOptions{}))
			b, err := s.Lease(ctx, queue.LeaseOptions{})
			must(t, err)
			must(t, s.Settle(ctx, b, queue.Settlement{Promoted: true}))
		}
		short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
		defer cancel()
		_, err = s.Lease(short, queue.LeaseOptions{})
		wantErr(t, err, context.DeadlineExceeded)
	})
}

func TestShardsByKey(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	by := func(p []byte) string { return string(p[:1]) }
	s, err := queue.NewShards(t.Context(), c, servertest.Prefix(t), 5, by, queue.Config{Logger: quiet})
	must(t, err)
	for i := range 40 {
		must(t, s.Push(t.Context(), fmt.Appendf(nil, "%c%d", 'a'+i%8, i)))
	}
	home := map[byte]string{}
	for {
		b, err := s.TryLease(t.Context(), queue.LeaseOptions{})
		if errors.Is(err, queue.ErrEmpty) {
			break
		}
		must(t, err)
		for _, p := range b.Payloads {
			if h := home[p[0]]; h != "" && h != b.Queue {
				t.Fatalf("%c is in %s and %s", p[0], h, b.Queue)
			}
			home[p[0]] = b.Queue
		}
	}
	if len(home) != 8 {
		t.Fatal(home)
	}
	_, err = queue.NewShards(t.Context(), c, "x", 0, nil, queue.Config{})
	wantErr(t, err, queue.ErrConfig)
	wantErr(t, s.Push(t.Context()), queue.ErrEmptyPush)
}

// cluster is three masters on this machine.
type cluster struct {
	nodes []rueidis.Client // each on its own
	ids   []string
	ports []string
	pass  []string
	c     rueidis.Client
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	cl := &cluster{}
	var seeds []string
	const password = "cluster"
	for range 3 {
		bus, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		_, busPort, _ := net.SplitHostPort(bus.Addr().String())
		_ = bus.Close()
		port := clusterNode(t, password, busPort)
		n, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{"127.0.0.1:" + port}, Password: password, ForceSingleClient: true, DisableCache: true})
		must(t, err)
		t.Cleanup(n.Close)
		id, err := n.Do(t.Context(), n.B().ClusterMyid().Build()).ToString()
		must(t, err)
		cl.nodes, cl.ids, cl.ports = append(cl.nodes, n), append(cl.ids, id), append(cl.ports, port)
		seeds = append(seeds, "127.0.0.1:"+port)
		cl.pass = append(cl.pass, busPort)
	}
	for i, n := range cl.nodes {
		from, to := 16384*i/3, 16384*(i+1)/3-1
		must(t, n.Do(t.Context(), n.B().Arbitrary("CLUSTER", "ADDSLOTSRANGE").Args(fmt.Sprint(from), fmt.Sprint(to)).Build()).Error())
		// Masters that claim the same epoch settle it by themselves a little later, and whoever loses a slot then deletes its keys.
		must(t, n.Do(t.Context(), n.B().Arbitrary("CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1)).Build()).Error())
		if i > 0 {
			must(t, cl.nodes[0].Do(t.Context(), n.B().Arbitrary("CLUSTER", "MEET", "127.0.0.1", cl.ports[i], cl.pass[i]).Build()).Error())
		}
	}
	for end := time.Now().Add(30 * time.Second); ; <-time.After(50 * time.Millisecond) { // nothing tells when gossip is done
		ok := 0
		for _, n := range cl.nodes {
			if s, _ := n.Do(t.Context(), n.B().ClusterInfo().Build()).ToString(); strings.Contains(s, "cluster_state:ok") && strings.Contains(s, "cluster_known_nodes:3") {
				ok++
			}
		}
		if ok == 3 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the cluster does not form")
		}
	}
	t.Cleanup(func() { // the client waits 5 s before it closes a connection that a redirect made it open anew
		buf := make([]byte, 1<<20)
		for range 70 {
			if !strings.Contains(string(buf[:runtime.Stack(buf, true)]), "redirectOrNew") {
				return
			}
			<-time.After(100 * time.Millisecond)
		}
	})
	var err error
	cl.c, err = rueidis.NewClient(rueidis.ClientOption{InitAddress: seeds, Password: password})
	must(t, err)
	t.Cleanup(cl.c.Close)
	return cl
}

// clusterNode starts one node from this machine's programs, or, where there are none, from an image on the host's network.
func clusterNode(t *testing.T, password, bus string) (port string) {
	t.Helper()
	settings := []string{"--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "2000"}
	if _, ok := servers.LocalRedis(); ok {
		s, err := servers.StartRedis(t.Context(), servers.Options{Private: true, Mode: servers.Local, Settings: settings})
		if err == nil {
			t.Cleanup(func() { _ = s.Stop() })
			c := s.Client(t) // its password is its own; those of a cluster's nodes are alike
			must(t, c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("requirepass", password).Build()).Error())
			_, port, _ = strings.Cut(s.URL[strings.LastIndex(s.URL, "@"):], ":")
			port, _, _ = strings.Cut(port, "/")
			return port
		}
		t.Log(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_, port, _ = net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	args := append([]string{"run", "-d", "--rm", "--network", "host", servers.RedisImage, "redis-server", "--bind", "127.0.0.1", "--port", port, "--requirepass", password}, settings...)
	out, err := exec.Command("docker", args...).Output()
	if err != nil {
		t.Fatalf("no cluster node: neither redis-server on this machine nor a container: %v", err)
	}
	t.Cleanup(func() { _ = exec.Command("docker", "rm", "-f", strings.TrimSpace(string(out))).Run() })
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			_ = c.Close()
			return port
		}
	}
	t.Fatal("the cluster node does not answer")
	return ""
}

// migrate moves a slot key by key, slowly enough that scripts meet it half moved.
func (cl *cluster) migrate(t *testing.T, slot, from, to int, password string) (keys int) {
	ctx := t.Context()
	s := fmt.Sprint(slot)
	do := func(n rueidis.Client, args ...string) rueidis.RedisResult {
		r := n.Do(ctx, n.B().Arbitrary(args...).Build())
		if err := r.Error(); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		return r
	}
	do(cl.nodes[to], "CLUSTER", "SETSLOT", s, "IMPORTING", cl.ids[from])
	do(cl.nodes[from], "CLUSTER", "SETSLOT", s, "MIGRATING", cl.ids[to])
	for {
		ks, err := do(cl.nodes[from], "CLUSTER", "GETKEYSINSLOT", s, "1").AsStrSlice()
		if err != nil || len(ks) == 0 {
			break
		}
		do(cl.nodes[from], "MIGRATE", "127.0.0.1", cl.ports[to], ks[0], "0", "5000", "AUTH", password)
		keys++
		<-time.After(time.Millisecond)
	}
	for _, n := range []int{to, from, 3 - to - from} {
		do(cl.nodes[n], "CLUSTER", "SETSLOT", s, "NODE", cl.ids[to])
	}
	// As an operator would: no next move before all agree on this one.
	for end := time.Now().Add(20 * time.Second); ; <-time.After(10 * time.Millisecond) {
		agree := 0
		for _, n := range cl.nodes {
			out, _ := do(n, "CLUSTER", "NODES").ToString()
			for line := range strings.Lines(strings.TrimPrefix(out, "txt:")) {
				if strings.HasPrefix(line, cl.ids[to]) && owns(line, slot) {
					agree++
				}
			}
		}
		if agree == len(cl.nodes) {
			return keys
		}
		if time.Now().After(end) {
			t.Error("the nodes do not agree")
			return keys
		}
	}
}

// owns reads a line of CLUSTER NODES.
func owns(line string, slot int) bool {
	for _, f := range strings.Fields(line)[8:] {
		var from, to int
		if n, _ := fmt.Sscanf(f, "%d-%d", &from, &to); n == 1 {
			to = from
		} else if n == 0 {
			continue
		}
		if from <= slot && slot <= to {
			return true
		}
	}
	return false
}

// A queue of three shards on three masters, while the slot of one moves to and fro under it. Batches in flight are many keys; a script that saw only
// half of them would take the others for gone.
func TestClusterWhileASlotMoves(t *testing.T) {
	cl := startCluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg := quick
	cfg.Logger, cfg.Lease.For, cfg.Lease.MaxCrashes = quiet, 5*time.Second, 100
	s, err := queue.NewShards(ctx, cl.c, "orders", 3, nil, cfg)
	must(t, err)
	const n = 20_000
	where := map[string]bool{}
	for _, q := range s.Queues() {
		where[fmt.Sprint(keyslot(t, cl, q)*3/16384)] = true
	}
	if len(where) != 3 {
		t.Fatalf("shards are on %d masters: %v", len(where), where)
	}
	// In the shard that moves every kind of key exists all the time; only the one that never does is missing.
	q := s.Queues()[0]
	must(t, q.Push(ctx, records(n, n+3)...))
	var kept []*queue.Batch
	for range 3 {
		kept = append(kept, lease(t, q, queue.LeaseOptions{Records: 1, For: time.Hour}))
	}
	must(t, q.Handoff(ctx, kept[0]))
	must(t, q.Release(ctx, kept[1], queue.ReleaseOptions{Delay: time.Hour}))
	must(t, q.PushAt(ctx, time.Now().Add(time.Hour), records(n+3, n+4)...))
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				b, err := s.Lease(ctx, queue.LeaseOptions{Records: 20})
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					t.Logf("lease: %v", err) // comes again when its lease has run out
					continue
				}
				if i%3 == 0 {
					if err := s.Release(ctx, b, queue.ReleaseOptions{}); err != nil && !errors.Is(err, queue.ErrLeaseLost) {
						t.Logf("release: %v", err)
					}
					continue
				}
				mu.Lock()
				for _, p := range b.Payloads {
					seen[string(p)]++
				}
				mu.Unlock()
				for {
					if _, err := s.Ack(ctx, b.ID); err == nil || ctx.Err() != nil {
						break
					} else {
						t.Logf("ack: %v", err)
					}
				}
			}
		})
	}
	slot := keyslot(t, cl, q)
	wg.Go(func() {
		moved, at := 0, 0
		for round := range 6 {
			to := (at + 1 + round%2) % 3
			moved += cl.migrate(t, slot, at, to, "cluster")
			at = to
		}
		t.Logf("slot %d moved 6 times, %d keys", slot, moved)
	})
	for i := 0; i < n; i += 100 {
		must(t, s.Push(ctx, records(i, i+100)...))
		<-time.After(5 * time.Millisecond) // so that the moves have something to move
	}
	for end := time.Now().Add(60 * time.Second); ; <-time.After(20 * time.Millisecond) {
		st, err := s.Stats(ctx)
		if err == nil && st.Acked == n {
			break
		}
		if time.Now().After(end) {
			t.Errorf("not done: %+v %v", st, err)
			break
		}
	}
	cancel()
	wg.Wait()
	if len(seen) != n {
		t.Errorf("%d of %d records came", len(seen), n)
	}
	for i, q := range s.Queues() {
		st := books(t, q)
		if want := map[bool]int64{true: 3}[i == 0]; st.Dead != 0 || st.InFlight != want || st.Delayed != want/3 {
			t.Errorf("%+v", st)
		}
	}
	for _, b := range kept {
		if _, err := q.Get(t.Context(), b.ID); err != nil {
			t.Error(err)
		}
	}
}

func keyslot(t *testing.T, cl *cluster, q *queue.Queue) int {
	n, err := cl.nodes[0].Do(t.Context(), cl.nodes[0].B().Arbitrary("CLUSTER", "KEYSLOT").Args("{"+q.Name()+"}:ready").Build()).AsInt64()
	must(t, err)
	return int(n)
}
