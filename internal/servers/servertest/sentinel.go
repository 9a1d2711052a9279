package servertest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/rueidis"
)

// sentinelSet is the name of the primary at the sentinel.
const sentinelSet = "main"

// Sentinel is a primary, its replica, and a sentinel that watches both, on the loopback of this
// machine.
type Sentinel struct {
	// Client is a client that finds the primary through the sentinel.
	Client rueidis.Client

	nodes []rueidis.Client
	ports []string
}

// EachSentinel runs f on a set of servers of every kind that HEADRACE_SERVERS allows.
func EachSentinel(t *testing.T, f func(t *testing.T, s *Sentinel)) {
	eachNodeKind(t, func(t *testing.T, k nodeKind) { f(t, startSentinel(t, k)) })
}

func startSentinel(t *testing.T, k nodeKind) *Sentinel {
	t.Helper()
	s := &Sentinel{}
	for i := range 2 {
		settings := []string{"--masterauth", clusterPassword, "--repl-diskless-sync-delay", "0", "--appendonly", "yes"}
		if i > 0 {
			settings = append(settings, "--replicaof", "127.0.0.1 "+s.ports[0])
		}
		port, err := k.start(t, settings)
		must(t, err)
		c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{"127.0.0.1:" + port}, Password: clusterPassword, ForceSingleClient: true, DisableCache: true})
		must(t, err)
		t.Cleanup(c.Close)
		s.nodes, s.ports = append(s.nodes, c), append(s.ports, port)
	}
	Eventually(t, "the replica follows", func() bool {
		info, _ := s.nodes[1].Do(t.Context(), s.nodes[1].B().Info().Section("replication").Build()).ToString()
		return strings.Contains(info, "master_link_status:up")
	})
	port := freePort(t)
	conf := fmt.Sprintf("port %s\nbind 127.0.0.1\nsentinel monitor %s 127.0.0.1 %s 1\nsentinel auth-pass %[2]s %[4]s\n"+
		"sentinel down-after-milliseconds %[2]s 1000\nsentinel failover-timeout %[2]s 3000\n", port, sentinelSet, s.ports[0], clusterPassword)
	must(t, untilAnswers(t, k.shell(`f=$(mktemp) && printf "%s" "$1" >"$f" && { redis-server "$f" --sentinel & read -r _; kill -9 $!; rm -f "$f"; }`, conf), port))
	var err error
	s.Client, err = rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{"127.0.0.1:" + port}, Password: clusterPassword, Sentinel: rueidis.SentinelOption{MasterSet: sentinelSet},
	})
	must(t, err)
	t.Cleanup(s.Client.Close)
	sentinel, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{"127.0.0.1:" + port}, ForceSingleClient: true, DisableCache: true, AlwaysRESP2: true})
	must(t, err)
	t.Cleanup(sentinel.Close)
	Eventually(t, "the sentinel knows the replica", func() bool {
		replicas, err := sentinel.Do(t.Context(), sentinel.B().Arbitrary("SENTINEL", "REPLICAS", sentinelSet).Build()).ToArray()
		return err == nil && len(replicas) == 1
	})
	return s
}

// KillPrimary ends the primary after its replica has everything that was written.
func (s *Sentinel) KillPrimary(t *testing.T) {
	t.Helper()
	n, err := s.nodes[0].Do(t.Context(), s.nodes[0].B().Wait().Numreplicas(1).Timeout(60_000).Build()).AsInt64()
	if err != nil || n != 1 {
		t.Fatalf("WAIT: got %d, %v, want 1 replica", n, err)
	}
	// The server is gone before it answers.
	_ = s.nodes[0].Do(t.Context(), s.nodes[0].B().Arbitrary("SHUTDOWN", "NOSAVE", "NOW", "FORCE").Build()).Error()
}
