package redisx

import (
	"context"
	"strings"

	"github.com/redis/rueidis"
)

// EvictionPolicy returns the server's maxmemory-policy if it makes the server evict keys when its
// memory is full, and "" if it does not: with noeviction, or when the server does not report its
// policy (an emulation, or a user without the permission). In a cluster it asks the node that has
// the keys.
func (s *Server) EvictionPolicy(ctx context.Context) (string, error) {
	policy, err := s.Setting(ctx, "maxmemory-policy")
	if err != nil || policy == "noeviction" {
		return "", err
	}
	return policy, nil
}

// Setting returns a setting of the server, by INFO (for those that it has) or CONFIG GET. "": the
// server does not report it.
func (s *Server) Setting(ctx context.Context, name string) (string, error) {
	node := s.node(ctx)
	var fromInfo, fromConfig string
	err := s.Retry(ctx, func() error {
		info, err := node.Do(ctx, node.B().Info().Section("memory").Build()).ToString()
		fromInfo = infoField(info, strings.ReplaceAll(name, "-", "_"))
		return err
	})
	if _, isReply := rueidis.IsRedisErr(err); err != nil && (!isReply || Refused(err)) {
		return "", err
	}
	if fromInfo != "" {
		return fromInfo, nil
	}
	err = s.Retry(ctx, func() error {
		m, err := node.Do(ctx, node.B().ConfigGet().Parameter(name).Build()).AsStrMap()
		fromConfig = m[name]
		return err
	})
	if _, isReply := rueidis.IsRedisErr(err); err != nil && (!isReply || Refused(err)) {
		return "", err
	}
	return fromConfig, nil
}

// infoField returns the value of a line of INFO.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// node returns a client of the node that has the guard key: INFO and CONFIG name no key that would
// lead there.
func (s *Server) node(ctx context.Context) rueidis.Client {
	if s.client.Mode() != rueidis.ClientModeCluster {
		return s.client
	}
	for _, n := range s.client.Nodes() {
		// A node answers for a key that it has, and redirects otherwise; a replica redirects always.
		r := n.Do(ctx, n.B().Arbitrary("EXISTS").Keys(s.guard).Build())
		if r.Error() == nil {
			return n
		}
	}
	return s.client
}

// Nodes returns a client of every node of a cluster, or the one client.
func (s *Server) Nodes() []rueidis.Client {
	var all []rueidis.Client
	for _, n := range s.client.Nodes() {
		all = append(all, n)
	}
	return all
}
