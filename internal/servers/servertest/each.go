package servertest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/headrace/headrace/internal/servers"
	"github.com/redis/rueidis"
)

// EnvEach limits EachRedis to some kinds, joined by commas: shared, miniredis, redis, valkey,
// local. A kind that is named must be there.
const EnvEach = "HEADRACE_EACH"

// kind is one kind of Redis for EachRedis.
type kind struct {
	name string
	// find returns what start would start ("Redis 8"), and whether this machine can.
	find func() (what string, ok bool)
	// start starts it, once in the process.
	start func() (*servers.RedisServer, error)
}

var kinds = []kind{
	containerKind("redis", servers.RedisImage, "Redis 8"),
	containerKind("valkey", servers.ValkeyImage, "Valkey 9"),
	{
		name: "local",
		find: func() (string, bool) {
			if mode() != servers.Auto && mode() != servers.Local {
				return "", false
			}
			return servers.LocalRedis()
		},
		start: once(servers.Options{Private: true, Mode: servers.Local}),
	},
}

func containerKind(name, image, what string) kind {
	return kind{
		name: name,
		find: func() (string, bool) {
			if mode() != servers.Auto && mode() != servers.Docker {
				return "", false
			}
			// In CI an engine that answers must give the server, if by a pull; elsewhere an image that
			// was never pulled is not needed.
			return what, servers.HasImage(image) || inCI() && servers.DockerError() == nil
		},
		start: once(servers.Options{Private: true, Image: image, Mode: servers.Docker}),
	}
}

func once(o servers.Options) func() (*servers.RedisServer, error) {
	return sync.OnceValues(func() (*servers.RedisServer, error) {
		s, err := servers.StartRedis(context.Background(), o)
		if err == nil {
			atExit(s.Stop)
		}
		return s, err
	})
}

// mode is HEADRACE_SERVERS; a bad value is reported by the shared server.
func mode() servers.Mode {
	m, err := servers.ParseMode(os.Getenv(servers.EnvMode))
	if err != nil {
		return servers.Auto
	}
	return m
}

func inCI() bool { return os.Getenv("CI") == "true" }

// EachRedis runs f as a subtest on every kind of Redis that can be had here: the shared server,
// miniredis, Redis 8 and Valkey 9 where Docker has their images, and this machine's redis-server. A
// kind that the shared server is already is not run twice. Each server is started once in the
// process, and f must keep to its own Prefix.
func EachRedis(t *testing.T, f func(t *testing.T, c rueidis.Client)) {
	t.Helper()
	only := strings.FieldsFunc(os.Getenv(EnvEach), func(r rune) bool { return r == ',' || r == ' ' })
	if err := checkEach(only); err != nil {
		t.Fatal(err)
	}
	wanted := func(name string) bool { return len(only) == 0 || slices.Contains(only, name) }
	seen := make(map[string]bool)
	if wanted("shared") {
		seen[family(redisServer(t))] = true
		t.Run("shared", func(t *testing.T) { f(t, Redis(t)) })
	}
	if wanted("miniredis") {
		t.Run("miniredis", func(t *testing.T) { f(t, Miniredis(t)) })
	}
	for _, k := range kinds {
		if !wanted(k.name) {
			continue
		}
		what, ok := k.find()
		if len(only) == 0 && (!ok || seen[what]) {
			continue
		}
		seen[what] = true
		t.Run(k.name, func(t *testing.T) {
			s, err := k.start()
			if err != nil {
				t.Fatal(err)
			}
			f(t, s.Client(t))
		})
	}
}

// family is the name and the major version: "Redis 8".
func family(s *servers.RedisServer) string {
	major, _, _ := strings.Cut(s.Version, ".")
	return s.Name + " " + major
}

func checkEach(only []string) error {
	known := []string{"shared", "miniredis"}
	for _, k := range kinds {
		known = append(known, k.name)
	}
	for _, name := range only {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%s names %q, must be some of %s", EnvEach, name, strings.Join(known, ", "))
		}
	}
	return nil
}
