package servers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/reach"
	"github.com/headrace/headrace/internal/servers/container"
)

// RedisServer is a Redis or Valkey server. Its methods are safe for concurrent use.
type RedisServer struct {
	// URL is what rueidis.ParseURL reads; it holds the password.
	URL string
	// Chosen is what was taken and its version, for people: "Redis 7.0.15 (redis-server on this
	// machine)".
	Chosen string
	// Name is "Redis", "Valkey" or "miniredis", and Version "7.0.15".
	Name, Version string

	in instance // nil when it was given by URL
}

// The images that are used when Options.Image names no other.
const (
	RedisImage     = "redis:8"
	ValkeyImage    = "valkey/valkey:9"
	PostgresImage  = "postgres:18"
	PgBouncerImage = "edoburu/pgbouncer:latest"
)

// StartRedis finds or starts a Redis server.
func StartRedis(ctx context.Context, o Options) (*RedisServer, error) {
	if url := o.given(EnvRedis); url != "" {
		return givenRedis(ctx, url)
	}
	return ways[*RedisServer]{
		server: "Redis", image: RedisImage,
		docker: func(ctx context.Context, e container.Engine, image string) (*RedisServer, error) {
			return onFreePort(func(port int) (*RedisServer, error) { return redisContainer(ctx, e, image, port, o) })
		},
		local: func(ctx context.Context) (*RedisServer, error) {
			prog, err := findRedis()
			if err != nil {
				return nil, absent{err}
			}
			return onFreePort(func(port int) (*RedisServer, error) { return redisProcess(ctx, prog, port, o) })
		},
		embedded: func(context.Context) (*RedisServer, error) { return StartMiniredis() },
	}.find(ctx, o)
}

// findRedis prefers Redis to Valkey.
func findRedis() (program, error) {
	prog, err := findProgram("redis-server", minRedis, nil)
	if err != nil {
		if valkey, err := findProgram("valkey-server", minValkey, nil); err == nil {
			return valkey, nil
		}
	}
	return prog, err
}

// LocalRedis returns the name of the server that this machine's programs would start, "Redis 7",
// and whether there is one.
func LocalRedis() (what string, ok bool) {
	prog, err := findRedis()
	if err != nil {
		return "", false
	}
	name := "Redis"
	if prog.name() == "valkey-server" {
		name = "Valkey"
	}
	return fmt.Sprintf("%s %d", name, prog.major), true
}

// redisDefaults makes a server that keeps what it acknowledged as the usual production setting
// does, and never evicts. No snapshots: the append-only file is the only persistence, and its
// directory goes away anyway.
var redisDefaults = [][2]string{
	{"appendonly", "yes"},
	{"appendfsync", "everysec"},
	{"maxmemory-policy", "noeviction"},
	{"save", ""},
}

func redisProcess(ctx context.Context, prog program, port int, o Options) (*RedisServer, error) {
	l, err := newLocal("redis", "", syscall.SIGKILL, "redis", "nobody")
	if err != nil {
		return nil, err
	}
	// The password goes through a file: every user of this machine can read a command line.
	password := cmp.Or(o.password, newPassword())
	conf := fmt.Sprintf("bind 127.0.0.1\nport %d\nrequirepass %s\ndir %q\ndaemonize no\n", port, password, l.dir)
	for _, d := range redisDefaults {
		conf += fmt.Sprintf("%s %q\n", d[0], d[1])
	}
	l.argv = append([]string{prog.path, l.path("redis.conf")}, o.Settings...)
	s := &RedisServer{URL: redisURL("127.0.0.1", port, password), in: l}
	return s, s.launch(ctx, l.write("redis.conf", conf), prog.name()+" on this machine")
}

// envPassword is the environment variable of a container that holds the password.
const envPassword = "HEADRACE_PASSWORD"

func redisContainer(ctx context.Context, e container.Engine, image string, port int, o Options) (*RedisServer, error) {
	password := cmp.Or(o.password, newPassword())
	server := "redis-server"
	if strings.Contains(image, "valkey") {
		server = "valkey-server"
	}
	// The password comes as a configuration on standard input: a command line is for all to read.
	cmd := []string{"sh", "-c", "exec \"$0\" - \"$@\" <<END\nrequirepass $" + envPassword + "\nEND", server}
	for _, d := range redisDefaults {
		cmd = append(cmd, "--"+d[0], d[1])
	}
	if o.HostNetwork {
		cmd = append(cmd, "--bind", e.Address().Dial, "--port", strconv.Itoa(port))
	}
	c, err := runContainer(e, container.Spec{
		Image: image, Port: port, Inside: 6379, HostNetwork: o.HostNetwork,
		Cmd: append(cmd, o.Settings...), Env: map[string]string{envPassword: password},
	})
	if err != nil {
		return nil, err
	}
	s := &RedisServer{URL: redisURL(e.Address().Dial, port, password), in: c}
	return s, s.launch(ctx, nil, "container "+image)
}

func redisURL(host string, port int, password string) string {
	return fmt.Sprintf("redis://:%s@%s:%d/0", password, host, port)
}

// launch brings a new server up for the first time, unless its preparation failed, and describes
// it.
func (s *RedisServer) launch(ctx context.Context, prepared error, how string) error {
	err := prepared
	if err == nil {
		err = s.start(ctx)
	}
	if err == nil {
		s.Name, s.Version, err = askRedis(ctx, s.URL)
	}
	if err != nil {
		return errors.Join(err, s.in.stop())
	}
	s.Chosen = fmt.Sprintf("%s %s (%s)", s.Name, s.Version, how)
	return nil
}

// Kill sends SIGKILL to the server. What it had not written to its append-only file is lost.
func (s *RedisServer) Kill() error { return kill(s.in, s.Chosen) }

// Start brings a killed server back at the same address, with what its append-only file holds, and
// waits until it answers.
func (s *RedisServer) Start() error {
	if s.in == nil {
		return notOurs(s.Chosen)
	}
	return s.start(context.Background())
}

func (s *RedisServer) start(ctx context.Context) error {
	return startAndAwait(ctx, s.in, func(ctx context.Context) error {
		_, _, err := askRedis(ctx, s.URL)
		return err
	})
}

// Stop ends a server that was started here and removes its data. It may be called twice. A server
// given by URL is left alone.
func (s *RedisServer) Stop() error { return stop(s.in) }

// Client returns a new client, closed at the end of the test.
func (s *RedisServer) Client(t TB) rueidis.Client {
	t.Helper()
	c, err := s.Dial()
	if err != nil {
		t.Fatalf("%s: %v", s.Chosen, err)
	}
	t.Cleanup(c.Close)
	return c
}

// Dial returns a new client with the options that the server needs. It is the caller's to close.
func (s *RedisServer) Dial() (rueidis.Client, error) {
	opt, err := rueidis.ParseURL(s.URL)
	if err != nil {
		return nil, reach.Unreadable("the URL of Redis", "redis://user:password@host:6379/0")
	}
	if _, ok := s.in.(*mini); ok {
		// Miniredis knows no client tracking, and it is one server. RESP2, because there a subscription
		// gets a connection of its own: miniredis refuses commands on one that subscribes.
		opt.DisableCache, opt.ForceSingleClient, opt.AlwaysRESP2 = true, true, true
	}
	return rueidis.NewClient(opt)
}

// askRedis checks that the server answers, with our password, and returns its name and version.
func askRedis(ctx context.Context, url string) (name, version string, err error) {
	opt, err := rueidis.ParseURL(url)
	if err != nil {
		return "", "", reach.Unreadable("the URL of Redis", "redis://user:password@host:6379/0")
	}
	opt.ForceSingleClient, opt.DisableCache, opt.DisableRetry = true, true, true
	opt.Dialer.Timeout = ReachTimeout
	if deadline, ok := ctx.Deadline(); ok {
		opt.Dialer.Timeout = max(time.Until(deadline), time.Millisecond)
	}
	c, err := rueidis.NewClient(opt)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	if err := c.Do(ctx, c.B().Ping().Build()).Error(); err != nil {
		return "", "", err // LOADING, for one
	}
	info, err := c.Do(ctx, c.B().Info().Section("server").Build()).ToString()
	if err != nil {
		return "", "", err
	}
	name, version = "Redis", infoField(info, "redis_version")
	if v := infoField(info, "valkey_version"); v != "" {
		name, version = "Valkey", v
	}
	return name, version, nil
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
