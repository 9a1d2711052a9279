package servers

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/redis/rueidis"
)

// RedisServer is a Redis or Valkey server. Its methods are safe for concurrent use.
type RedisServer struct {
	// URL is what rueidis.ParseURL reads; it holds the password.
	URL string
	// Chosen is what was taken and its version, for people: "Redis 7.0.15 (redis-server on this machine)".
	Chosen string
	// Version is "7.0.15"; Name is "Redis", "Valkey" or "miniredis".
	Name, Version string

	in instance // nil when it was given by URL
}

// StartRedis finds or starts a Redis server.
func StartRedis(ctx context.Context, o Options) (*RedisServer, error) {
	return startLocalRedis(ctx, o)
}

func startLocalRedis(ctx context.Context, o Options) (*RedisServer, error) {
	prog, err := findProgram("redis-server", minRedis, nil)
	if err != nil {
		return nil, err
	}
	return onFreePort(func(port int) (*RedisServer, error) {
		l, err := newLocal("redis", syscall.SIGKILL, "redis", "nobody")
		if err != nil {
			return nil, err
		}
		password := newPassword()
		conf := fmt.Sprintf("bind 127.0.0.1\nport %d\nrequirepass %s\ndir %s\n%s", port, password, l.dir, redisDefaults)
		l.argv = append([]string{prog.path, l.path("redis.conf")}, o.Settings...)
		s := &RedisServer{URL: fmt.Sprintf("redis://:%s@127.0.0.1:%d/0", password, port), in: l}
		if err := l.write("redis.conf", conf); err != nil {
			l.stop() //nolint:errcheck // the first error counts
			return nil, err
		}
		if err := s.Start(); err != nil {
			l.stop() //nolint:errcheck // the first error counts
			return nil, err
		}
		s.Chosen = fmt.Sprintf("%s %s (redis-server on this machine)", s.Name, s.Version)
		return s, nil
	})
}

// redisDefaults makes a server that keeps what it acknowledged as the usual production setting does, and never
// evicts. No snapshots: the append-only file is the only persistence, as its directory goes away anyway.
const redisDefaults = `appendonly yes
appendfsync everysec
maxmemory-policy noeviction
save ""
daemonize no
`

// Kill sends SIGKILL to the server. What it had not written to its append-only file is lost.
func (s *RedisServer) Kill() error {
	if s.in == nil {
		return fmt.Errorf("%s is not ours to kill", s.Chosen)
	}
	return s.in.kill()
}

// Start brings a killed server back at the same address, with what its append-only file holds, and waits until it
// answers.
func (s *RedisServer) Start() error {
	if s.in == nil {
		return fmt.Errorf("%s is not ours to start", s.Chosen)
	}
	if err := s.in.start(); err != nil {
		return err
	}
	return await(context.Background(), s.in, s.ask)
}

// Stop ends a server that was started here and removes its data. It may be called twice. A server given by URL is
// left alone.
func (s *RedisServer) Stop() error {
	if s.in == nil {
		return nil
	}
	return s.in.stop()
}

// Client returns a new client, closed at the end of the test.
func (s *RedisServer) Client(t TB) rueidis.Client {
	t.Helper()
	c, err := s.dial()
	if err != nil {
		t.Fatalf("%s: %v", s.Chosen, err)
	}
	t.Cleanup(c.Close)
	return c
}

func (s *RedisServer) dial() (rueidis.Client, error) {
	opt, err := rueidis.ParseURL(s.URL)
	if err != nil {
		return nil, fmt.Errorf("its URL cannot be read") // the error repeats the URL, password and all
	}
	if _, ok := s.in.(*mini); ok {
		forMiniredis(&opt)
	}
	return rueidis.NewClient(opt)
}

// ask checks that the server answers, with our password, and learns what it is.
func (s *RedisServer) ask(ctx context.Context) error {
	opt, err := rueidis.ParseURL(s.URL)
	if err != nil {
		return fmt.Errorf("its URL cannot be read")
	}
	opt.ForceSingleClient, opt.DisableCache, opt.DisableRetry = true, true, true
	opt.Dialer.Timeout = time.Second
	if deadline, ok := ctx.Deadline(); ok {
		opt.Dialer.Timeout = max(time.Until(deadline), time.Millisecond)
	}
	c, err := rueidis.NewClient(opt)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Do(ctx, c.B().Ping().Build()).Error(); err != nil {
		return err
	}
	info, err := c.Do(ctx, c.B().Info().Section("server").Build()).ToString()
	if err != nil {
		return err
	}
	s.Name, s.Version = "Redis", infoField(info, "redis_version")
	if v := infoField(info, "valkey_version"); v != "" {
		s.Name, s.Version = "Valkey", v
	}
	return nil
}

// infoField finds "name:value" in the text that INFO returns.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
