package servertest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers"
)

const (
	// Masters is how many masters a [Cluster] has; node Masters is the replica of node 0.
	Masters         = 3
	clusterPassword = "cluster" // of all nodes, because they connect to each other
)

// Cluster is three masters on the loopback of this machine, and a replica of the first.
type Cluster struct {
	nodes []rueidis.Client // one client for each node
	ids   []string
	ports []string
	buses []string
	pass  string
	// Client is a client of the cluster.
	Client rueidis.Client
}

// EachCluster runs f on a cluster of every kind that HEADRACE_SERVERS allows: containers on this
// machine's own network, and this machine's programs.
func EachCluster(t *testing.T, f func(t *testing.T, cl *Cluster)) {
	eachNodeKind(t, func(t *testing.T, k nodeKind) { f(t, startCluster(t, k.start)) })
}

// nodeKind is a way to start servers that know each other.
type nodeKind struct {
	// start starts a server with the password clusterPassword.
	start func(t *testing.T, settings []string) (port string, err error)
	// shell returns the command that runs a shell script with arguments where redis-server is.
	shell func(script string, args ...string) *exec.Cmd
}

func eachNodeKind(t *testing.T, f func(t *testing.T, k nodeKind)) {
	t.Helper()
	mode, err := servers.ParseMode(os.Getenv(servers.EnvMode))
	must(t, err)
	_, local := servers.LocalRedis()
	if mode == servers.Docker || mode != servers.Local && runtime.GOOS == "linux" && servers.HasImage(servers.RedisImage) {
		t.Run("redis", func(t *testing.T) { f(t, nodeKind{containerNode, containerShell}) })
	} else if !local {
		t.Fatal("no node: neither redis-server on this machine nor a Docker engine with " + servers.RedisImage)
	}
	if local && mode != servers.Docker {
		t.Run("local", func(t *testing.T) { f(t, nodeKind{localNode, localShell}) })
	}
}

// OnCluster returns a Cluster of the nodes of a running one with [Masters] masters and no replica,
// for what moves slots.
func OnCluster(t *testing.T, c *servers.RedisCluster) *Cluster {
	t.Helper()
	cl := &Cluster{pass: c.Password}
	for i, node := range c.Nodes {
		n, err := c.Node(i)
		if err != nil {
			t.Error(err)
			return cl
		}
		t.Cleanup(n.Close)
		id, err := n.Do(t.Context(), n.B().Arbitrary("CLUSTER", "MYID").Build()).ToString()
		if err != nil {
			t.Error(err)
		}
		_, port, _ := strings.Cut(node.URL[strings.LastIndex(node.URL, "@"):], ":")
		port, _, _ = strings.Cut(port, "/")
		cl.nodes, cl.ids, cl.ports = append(cl.nodes, n), append(cl.ids, id), append(cl.ports, port)
	}
	return cl
}

func startCluster(t *testing.T, start func(t *testing.T, settings []string) (port string, err error)) *Cluster {
	t.Helper()
	cl := &Cluster{pass: clusterPassword}
	var seeds []string
	for range Masters + 1 {
		port, bus := cl.start(t, start)
		n, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{"127.0.0.1:" + port}, Password: clusterPassword, ForceSingleClient: true, DisableCache: true})
		must(t, err)
		t.Cleanup(n.Close)
		id, err := n.Do(t.Context(), n.B().ClusterMyid().Build()).ToString()
		must(t, err)
		cl.nodes, cl.ids, cl.ports, cl.buses = append(cl.nodes, n), append(cl.ids, id), append(cl.ports, port), append(cl.buses, bus)
		seeds = append(seeds, "127.0.0.1:"+port)
	}
	for i := range cl.nodes {
		if i < Masters {
			from, to := 16384*i/Masters, 16384*(i+1)/Masters-1
			cl.Do(t, i, "CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(from), fmt.Sprint(to))
			// Masters that claim the same epoch settle it a little later, and the one that loses a slot
			// deletes its keys.
			cl.Do(t, i, "CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1))
		}
		if i > 0 {
			cl.Do(t, 0, "CLUSTER", "MEET", "127.0.0.1", cl.ports[i], cl.buses[i])
		}
	}
	all := func(what ...string) func() bool {
		return func() bool {
			for i := range cl.nodes {
				s, _ := cl.Do(t, i, "CLUSTER", "INFO").ToString()
				for _, w := range what {
					if !strings.Contains(s, w) {
						return false
					}
				}
			}
			return true
		}
	}
	Eventually(t, "the cluster forms", all("cluster_state:ok", fmt.Sprintf("cluster_known_nodes:%d", len(cl.nodes))))
	cl.Do(t, Masters, "CLUSTER", "REPLICATE", cl.ids[0])
	Eventually(t, "the replica has caught up", func() bool { return cl.Follows(t, Masters) })
	Eventually(t, "the cluster is healthy", all("cluster_state:ok"))
	t.Cleanup(AwaitClusterClients)
	var err error
	cl.Client, err = rueidis.NewClient(rueidis.ClientOption{InitAddress: seeds, Password: clusterPassword})
	must(t, err)
	t.Cleanup(cl.Client.Close)
	return cl
}

// AwaitClusterClients waits for the end of clients of clusters that are closed: such a client waits
// 5 s before it closes a connection that it needs no longer.
func AwaitClusterClients() {
	buf := make([]byte, 1<<20)
	for range 70 {
		if !strings.Contains(string(buf[:runtime.Stack(buf, true)]), "rueidis.(*clusterClient)") {
			return
		}
		<-time.After(100 * time.Millisecond)
	}
}

// start tries again with other ports: another process may take a free port before the node does.
func (cl *Cluster) start(t *testing.T, start func(t *testing.T, settings []string) (string, error)) (port, bus string) {
	for try := 0; ; try++ {
		bus := freePort(t)
		port, err := start(t, nodeSettings(bus))
		if err == nil {
			return port, bus
		}
		if try == 3 {
			t.Fatalf("no cluster node: %v", err)
		}
		t.Log(err)
	}
}

func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// nodeSettings has a long timeout: on a busy machine a node may be silent for seconds, and the
// other nodes would consider it dead.
func nodeSettings(bus string) []string {
	return []string{"--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "15000", "--masterauth", clusterPassword, "--repl-diskless-sync-delay", "0"}
}

// localNode starts a node from this machine's programs.
func localNode(t *testing.T, settings []string) (port string, err error) {
	s, err := servers.StartRedis(t.Context(), servers.Options{Private: true, Mode: servers.Local, Settings: settings})
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { _ = s.Stop() })
	c := s.Client(t) // its password is its own
	must(t, c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("requirepass", clusterPassword).Build()).Error())
	_, port, _ = strings.Cut(s.URL[strings.LastIndex(s.URL, "@"):], ":")
	port, _, _ = strings.Cut(port, "/")
	return port, nil
}

// containerNode starts a node in a container on this machine's own network, so that its address is
// the same for the others and for us. It ends with its standard input, so none outlives the test,
// however that ends.
func containerNode(t *testing.T, settings []string) (port string, err error) {
	port = freePort(t)
	cmd := containerShell(`redis-server "$@" & read -r _; kill -9 $!`,
		append([]string{"--bind", "127.0.0.1", "--port", port, "--requirepass", clusterPassword, "--save", ""}, settings...)...)
	return port, untilAnswers(t, cmd, port)
}

// containerShell runs a shell script in a container on this machine's own network.
func containerShell(script string, args ...string) *exec.Cmd {
	run := []string{"run", "-i", "--rm", "--network", "host", "--entrypoint", "sh", servers.RedisImage, "-c", script, "sh"}
	return exec.Command("docker", append(run, args...)...)
}

// localShell runs a shell script on this machine.
func localShell(script string, args ...string) *exec.Cmd {
	return exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...)
}

// untilAnswers starts a server that ends with its standard input, and waits until it listens.
func untilAnswers(t *testing.T, cmd *exec.Cmd, port string) error {
	t.Helper()
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	in, err := cmd.StdinPipe()
	must(t, err)
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	end := func() { _ = in.(io.Closer).Close(); <-exited }
	for range 1000 {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			_ = c.Close()
			t.Cleanup(end)
			return nil
		}
		<-time.After(20 * time.Millisecond)
	}
	end()
	return fmt.Errorf("the server does not answer: %s", said.String())
}

// eventuallyTimeout only detects a hang.
const eventuallyTimeout = 2 * time.Minute

// Eventually polls for a condition that no signal announces.
func Eventually(t testing.TB, what string, ok func() bool) bool {
	t.Helper()
	for end := time.Now().Add(eventuallyTimeout); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("after %v: not yet: %s", eventuallyTimeout, what)
			return false
		}
	}
	return true
}

// Do runs a command on node i. It never ends the test: it is called concurrently with it.
func (cl *Cluster) Do(t *testing.T, i int, args ...string) rueidis.RedisResult {
	t.Helper()
	r := cl.nodes[i].Do(t.Context(), cl.nodes[i].B().Arbitrary(args...).Build())
	if err := r.Error(); err != nil {
		t.Errorf("%v: %v", args, err)
	}
	return r
}

// Has reports whether the nodes know a command.
func (cl *Cluster) Has(t *testing.T, command string) bool {
	v, err := cl.Do(t, 0, "COMMAND", "INFO", command).ToArray()
	must(t, err)
	return len(v) == 1 && !v[0].IsNil()
}

// Begin opens a slot's move.
func (cl *Cluster) Begin(t *testing.T, slot, from, to int) {
	cl.Do(t, to, "CLUSTER", "SETSLOT", fmt.Sprint(slot), "IMPORTING", cl.ids[from])
	cl.Do(t, from, "CLUSTER", "SETSLOT", fmt.Sprint(slot), "MIGRATING", cl.ids[to])
}

// Move moves one key, and reports whether it did.
func (cl *Cluster) Move(t *testing.T, key string, from, to int) bool {
	return cl.Do(t, from, "MIGRATE", "127.0.0.1", cl.ports[to], key, "0", "5000", "AUTH", cl.pass).Error() == nil
}

// Finish moves the rest, slowly enough that scripts meet the slot half moved.
func (cl *Cluster) Finish(t *testing.T, slot, from, to int) (keys int) {
	s := fmt.Sprint(slot)
	for {
		ks, err := cl.Do(t, from, "CLUSTER", "GETKEYSINSLOT", s, "1").AsStrSlice()
		if err != nil || len(ks) == 0 {
			break
		}
		if !cl.Move(t, ks[0], from, to) {
			return keys // a script has made it on both nodes: it would never end
		}
		keys++
		<-time.After(time.Millisecond)
	}
	for _, i := range []int{to, from, Masters - to - from} {
		cl.Do(t, i, "CLUSTER", "SETSLOT", s, "NODE", cl.ids[to])
	}
	// As an operator would: no next move before all agree on this one.
	Eventually(t, "the nodes agree", func() bool { return cl.Agree(t, slot, to) })
	return keys
}

// TakeAway leaves key's slot without an owner until giveBack is called, and waits until the client
// knows.
func (cl *Cluster) TakeAway(t *testing.T, key string) (giveBack func()) {
	t.Helper()
	slot, owner := cl.Slot(t, key), 0
	Eventually(t, "the slot has no owner", func() bool {
		for i := range cl.nodes { // again, while a node still spreads what it knew
			for at := range Masters {
				if cl.sees(t, i, at, func(line string) bool { return owns(line, slot) }) {
					owner = at
					cl.Do(t, i, "CLUSTER", "DELSLOTS", fmt.Sprint(slot))
				}
			}
		}
		return errors.Is(cl.Client.Do(t.Context(), cl.Client.B().Exists().Key(key).Build()).Error(), rueidis.ErrNoSlot)
	})
	return func() {
		cl.Do(t, owner, "CLUSTER", "ADDSLOTS", fmt.Sprint(slot))
		Eventually(t, "the nodes agree", func() bool { return cl.Agree(t, slot, owner) })
	}
}

// Agree reports whether all nodes take node at for the owner of slot.
func (cl *Cluster) Agree(t *testing.T, slot, at int) bool {
	return cl.allSee(t, at, func(line string) bool { return owns(line, slot) })
}

// Follows reports whether node at is a replica in step with its master, and all know: masters do
// not vote for one that they take for a master.
func (cl *Cluster) Follows(t *testing.T, at int) bool {
	s, _ := cl.Do(t, at, "INFO", "replication").ToString()
	return strings.Contains(s, "role:slave") && strings.Contains(s, "master_link_status:up") &&
		cl.allSee(t, at, func(line string) bool { return strings.Contains(line, "slave") })
}

// allSee reports whether ok holds of the view that each node has of node at.
func (cl *Cluster) allSee(t *testing.T, at int, ok func(line string) bool) bool {
	for i := range cl.nodes {
		if !cl.sees(t, i, at, ok) {
			return false
		}
	}
	return true
}

func (cl *Cluster) sees(t *testing.T, i, at int, ok func(line string) bool) bool {
	out, _ := cl.Do(t, i, "CLUSTER", "NODES").ToString()
	for line := range strings.Lines(strings.TrimPrefix(out, "txt:")) {
		if strings.HasPrefix(line, cl.ids[at]) && ok(line) {
			return true
		}
	}
	return false
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

// Slot returns the slot of a key.
func (cl *Cluster) Slot(t *testing.T, key string) int {
	t.Helper()
	n, err := cl.Do(t, 0, "CLUSTER", "KEYSLOT", key).AsInt64()
	must(t, err)
	return int(n)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
