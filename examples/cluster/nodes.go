package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/internal/servers"
)

const (
	masters   = 3 // of the Redis Cluster; each has a shard of the queue
	databases = 2 // Postgres servers
)

// nodes are the servers of a run, and the clients on them.
type nodes struct {
	redis    *servers.RedisCluster
	postgres [databases]*servers.PostgresServer

	client rueidis.Client
	pools  [databases]*pgxpool.Pool
}

// startNodes starts all servers at once. Each write of Redis is on disk before it is acknowledged,
// so that a master that dies and comes back has lost nothing.
func startNodes(ctx context.Context, p *program.Program) (_ *nodes, err error) {
	n := &nodes{}
	defer func() {
		if err != nil {
			n.stop()
		}
	}()
	find := servers.Options{Private: true, HostNetwork: true, Log: func(text string) { p.Say("%s", text) }}
	errs := make([]error, databases+1)
	var wg sync.WaitGroup
	for i := range n.postgres {
		wg.Go(func() { n.postgres[i], errs[i] = servers.StartPostgres(ctx, find) })
	}
	wg.Go(func() {
		durable := find
		durable.Settings = []string{"--appendfsync", "always"}
		n.redis, errs[databases] = servers.StartRedisCluster(ctx, masters, durable)
	})
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return n, err
	}
	if n.client, err = n.redis.Dial(); err != nil {
		return n, err
	}
	for i, s := range n.postgres {
		if n.pools[i], err = pgxpool.New(ctx, s.URL); err != nil {
			return n, err
		}
	}
	fmt.Fprintf(p.Out, "servers     %d × %s\n            %d × %s\n", masters, n.redis.Nodes[0].Chosen, databases, n.postgres[0].Chosen)
	return n, nil
}

func (n *nodes) stop() {
	for _, pool := range n.pools {
		if pool != nil {
			pool.Close()
		}
	}
	if n.client != nil {
		n.client.Close()
	}
	for _, s := range n.postgres {
		if s != nil {
			_ = s.Stop() // the watchdog removes what is left
		}
	}
	if n.redis != nil {
		_ = n.redis.Stop()
	}
}
