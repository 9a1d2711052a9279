package container_test

import (
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headrace/headrace/internal/servers/container"
	"github.com/headrace/headrace/internal/servers/container/dockertestengine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// finders are the implementations of Engine.
var finders = map[string]func() (container.Engine, error){
	"docker command": container.Find,
	"dockertest":     dockertestengine.Find,
}

const image = "redis:8"

// engines returns the implementations that can run containers here: none if HEADRACE_SERVERS
// excludes containers or no engine answers. The tests of package servers report a missing engine.
func engines(t *testing.T) map[string]container.Engine {
	t.Helper()
	found := make(map[string]container.Engine)
	if mode := os.Getenv("HEADRACE_SERVERS"); mode == "local" || mode == "embedded" {
		return found
	}
	for name, find := range finders {
		e, err := find()
		if err != nil && os.Getenv("HEADRACE_SERVERS") == "docker" {
			t.Fatalf("%s: %v", name, err)
		}
		if err == nil && e.HasImage(image) {
			found[name] = e
		}
	}
	return found
}

// TestEngines runs a container through its whole life on every implementation.
func TestEngines(t *testing.T) {
	for name, e := range engines(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if e.HasImage("headrace/no-such-image:1") {
				t.Error("HasImage is true for an image that does not exist")
			}
			if err := e.Pull(t.Context(), "localhost:1/no-such-image:1"); err == nil {
				t.Error("Pull of an image that does not exist succeeded")
			}
			box := "headrace-test-" + strings.ToLower(rand.Text()[:12])
			t.Cleanup(func() {
				for range 2 { // the second call finds no container
					if err := e.Remove(box); err != nil {
						t.Errorf("Remove: %v", err)
					}
				}
				if s, err := e.Inspect(box); err == nil {
					t.Errorf("after Remove the container still exists: %+v", s)
				}
			})
			port := freePort(t)
			if err := e.Run(container.Spec{
				Name: box, Image: image, Port: port, Inside: 6379, Env: map[string]string{"TEXT": "two\nlines"}, Entrypoint: "sh",
				Cmd: []string{"-c", `echo started; exec redis-server --port 6379`},
			}); err != nil {
				t.Fatal(err)
			}
			answers(t, e, port)
			if err := e.Exec(box, `[ "$TEXT" = "$(printf 'two\nlines')" ]`); err != nil {
				t.Errorf("the environment did not reach the container: %v", err)
			}
			if err := e.Exec(box, "echo out of order; exit 3"); err == nil || !strings.Contains(err.Error(), "out of order") {
				t.Errorf("a command that failed: got %v, want its output", err)
			}
			running(t, e, box, true)
			for range 2 { // the second call finds it stopped
				if err := e.Kill(box); err != nil {
					t.Errorf("Kill: %v", err)
				}
			}
			if s := running(t, e, box, false); !strings.Contains(s.Log, "Ready to accept connections") {
				t.Errorf("the log of a container that was killed: got %q, want the server's last lines", s.Log)
			}
			if err := e.Start(box); err != nil {
				t.Fatal(err)
			}
			running(t, e, box, true)
			answers(t, e, port)
		})
	}
}

func running(t *testing.T, e container.Engine, name string, want bool) container.State {
	t.Helper()
	s, err := e.Inspect(name)
	if err != nil || s.Running != want {
		t.Errorf("Inspect: got %+v, %v; want Running %v", s, err, want)
	}
	return s
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// answers waits until the Redis behind the published port replies.
func answers(t *testing.T, e container.Engine, port int) {
	t.Helper()
	hang := time.After(time.Minute)
	for {
		select {
		case <-hang:
			t.Fatal("the published port does not answer")
		case <-time.After(20 * time.Millisecond):
		}
		c, err := net.Dial("tcp", net.JoinHostPort(e.Address().Dial, strconv.Itoa(port)))
		if err != nil {
			continue
		}
		reply := make([]byte, 5)
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Write([]byte("PING\r\n"))
		if err == nil {
			_, err = c.Read(reply)
		}
		_ = c.Close()
		if err == nil && reply[0] != 0 {
			return
		}
	}
}

// A docker command without an engine is an error, also where the engine accepts connections and
// never answers.
func TestEngineThatDoesNotAnswer(t *testing.T) {
	dir := t.TempDir()
	silent, err := net.Listen("unix", filepath.Join(dir, "silent"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() // connections are queued and never read
	docker := filepath.Join(dir, "docker")
	script := "#!/bin/sh\nexec sleep 600\n" // a docker command that waits for its engine
	if err := os.WriteFile(docker, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+path)
	for what, host := range map[string]string{
		"no socket": "unix://" + filepath.Join(dir, "nothing"), "a silent engine": "unix://" + filepath.Join(dir, "silent"),
		"an engine over ssh": "ssh://somewhere",
	} {
		t.Setenv("DOCKER_HOST", host)
		for name, find := range finders {
			found := make(chan error, 1)
			go func() { _, err := find(); found <- err }()
			select {
			case err := <-found:
				if err == nil {
					t.Errorf("%s, %s: found an engine", what, name)
				}
			case <-time.After(time.Minute):
				t.Fatalf("%s, %s: Find hangs", what, name)
			}
		}
	}
	t.Setenv("PATH", filepath.Join(dir, "empty"))
	for name, find := range finders {
		if _, err := find(); err == nil || !strings.Contains(err.Error(), "no docker command") {
			t.Errorf("%s without a docker command: got %v", name, err)
		}
	}
}

func TestAddressOf(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]container.Address{
		"unix:///var/run/docker.sock": {Bind: "127.0.0.1", Dial: "127.0.0.1"},
		"npipe:////./pipe/docker":     {Bind: "127.0.0.1", Dial: "127.0.0.1"},
		"tcp://localhost:2375":        {Bind: "127.0.0.1", Dial: "127.0.0.1"},
		"tcp://docker:2376":           {Bind: "0.0.0.0", Dial: "docker"},
	} {
		if got, ok := container.AddressOf(endpoint); !ok || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", endpoint, got, ok, want)
		}
	}
	for _, bad := range []string{"ssh://me@elsewhere", "tcp://%zz"} {
		if got, ok := container.AddressOf(bad); ok {
			t.Errorf("%s: got %+v, want none", bad, got)
		}
	}
}
