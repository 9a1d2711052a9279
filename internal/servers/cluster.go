package servers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// RedisCluster is a Redis Cluster of masters without replicas, on the loopback of this machine.
type RedisCluster struct {
	// Nodes are the masters. Each holds an equal part of the slots, in this order.
	Nodes []*RedisServer
	// Password is that of all nodes.
	Password string

	buses []int // the ports on which the nodes talk to each other
}

// clusterSettings has a long timeout: on a busy machine a node may be silent for seconds, and the
// other nodes would consider it dead. A node that is killed and started again within that time is
// missed by its own clients only.
func clusterSettings(bus int) []string {
	return []string{
		"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus), "--cluster-node-timeout", "15000",
		"--cluster-require-full-coverage", "no",
	}
}

// StartRedisCluster starts a cluster. It never uses REDIS_URL. Containers share the network of this
// machine, so the nodes reach each other under the addresses that clients use.
func StartRedisCluster(ctx context.Context, masters int, o Options) (_ *RedisCluster, err error) {
	c := &RedisCluster{Nodes: make([]*RedisServer, masters), Password: newPassword(), buses: make([]int, masters)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	o.Private, o.HostNetwork, o.password = true, true, c.Password
	settings := o.Settings
	errs := make([]error, masters)
	var wg sync.WaitGroup
	for i := range c.Nodes {
		wg.Go(func() {
			one := o
			c.Nodes[i], errs[i] = onFreePort(func(bus int) (*RedisServer, error) {
				one.Settings, c.buses[i] = append(clusterSettings(bus), settings...), bus
				return StartRedis(ctx, one)
			})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return c, err
	}
	return c, c.form(ctx)
}

// form gives each node its slots and makes the nodes know each other.
func (c *RedisCluster) form(ctx context.Context) error {
	const slots = 16384
	for i := range c.Nodes {
		from, to := slots*i/len(c.Nodes), slots*(i+1)/len(c.Nodes)-1
		if _, err := c.Do(ctx, i, "CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(from), strconv.Itoa(to)); err != nil {
			return err
		}
		// Masters that claim the same epoch settle it a little later, and the one that loses a slot
		// deletes its keys.
		if _, err := c.Do(ctx, i, "CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1)); err != nil {
			return err
		}
	}
	for i := 1; i < len(c.Nodes); i++ {
		host, port, err := c.address(i)
		if err != nil {
			return err
		}
		if _, err := c.Do(ctx, 0, "CLUSTER", "MEET", host, port, strconv.Itoa(c.buses[i])); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	want := []string{"cluster_state:ok", "cluster_slots_ok:16384", fmt.Sprintf("cluster_known_nodes:%d", len(c.Nodes))}
	for i := range c.Nodes {
		for {
			info, err := c.Do(ctx, i, "CLUSTER", "INFO")
			if err == nil && containsAll(info, want) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("the cluster does not form: %s: %w", strings.Join(strings.Fields(info), " "), errors.Join(err, ctx.Err()))
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return nil
}

func containsAll(text string, want []string) bool {
	for _, w := range want {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// address returns where the other nodes and clients reach a node.
func (c *RedisCluster) address(i int) (host, port string, err error) {
	opt, err := rueidis.ParseURL(c.Nodes[i].URL)
	if err != nil {
		return "", "", err
	}
	return net.SplitHostPort(opt.InitAddress[0])
}

// Do runs a command on one node, and returns its reply as text.
func (c *RedisCluster) Do(ctx context.Context, i int, args ...string) (string, error) {
	client, err := c.Node(i)
	if err != nil {
		return "", err
	}
	defer client.Close()
	reply, err := client.Do(ctx, client.B().Arbitrary(args...).Build()).ToAny()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return fmt.Sprint(reply), nil
}

// Node returns a new client of one node, which follows no redirect. It is the caller's to close.
func (c *RedisCluster) Node(i int) (rueidis.Client, error) {
	opt, err := rueidis.ParseURL(c.Nodes[i].URL)
	if err != nil {
		return nil, err
	}
	opt.ForceSingleClient, opt.DisableCache = true, true
	return rueidis.NewClient(opt)
}

// Dial returns a new client of the cluster. It is the caller's to close.
func (c *RedisCluster) Dial() (rueidis.Client, error) {
	opt := rueidis.ClientOption{Password: c.Password}
	for _, n := range c.Nodes {
		one, err := rueidis.ParseURL(n.URL)
		if err != nil {
			return nil, err
		}
		opt.InitAddress = append(opt.InitAddress, one.InitAddress...)
	}
	return rueidis.NewClient(opt)
}

// Stop ends all nodes and removes their data. It may be called twice.
func (c *RedisCluster) Stop() error {
	var errs []error
	for _, n := range c.Nodes {
		if n != nil {
			errs = append(errs, n.Stop())
		}
	}
	return errors.Join(errs...)
}
