package servers

import (
	"errors"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/container"
)

// recorder is an engine that only records what it should run.
type recorder struct {
	container.Engine
	spec container.Spec
}

func (r *recorder) Address() container.Address {
	return container.Address{Bind: "127.0.0.1", Dial: "127.0.0.1"}
}
func (r *recorder) Remove(string) error { return nil }
func (r *recorder) Run(s container.Spec) error {
	r.spec = s
	return errors.New("nothing runs here")
}

// The password of a server is on no command line: neither that of docker nor that of the server.
func TestNoPasswordOnACommandLine(t *testing.T) {
	t.Parallel()
	for _, image := range []string{RedisImage, ValkeyImage} {
		e := &recorder{}
		if _, err := redisContainer(t.Context(), e, image, 1, Options{Settings: []string{"--maxmemory", "1mb"}}); err == nil {
			t.Error("got no error, want the one of the engine")
		}
		secret := e.spec.Env[envPassword]
		command := strings.Join(e.spec.Cmd, " ")
		if len(secret) < 16 || strings.Contains(command, secret) {
			t.Errorf("%s: the password is %d bytes in the environment, and on the command line: %v", image, len(secret), strings.Contains(command, secret))
		}
		if !strings.HasSuffix(command, "--maxmemory 1mb") {
			t.Errorf("%s: the command is %q, want the settings at its end", image, command)
		}
	}
}
