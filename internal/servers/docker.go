package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ory/dockertest/v3"
	"github.com/ory/dockertest/v3/docker"
)

// engineTimeout is how long a Docker engine may take to say that it is there.
const engineTimeout = time.Second

// engine is a Docker engine that answered.
type engine struct {
	pool     *dockertest.Pool
	endpoint string
	// bind is the address on which it publishes ports, and dial the one where we find them.
	bind, dial string
}

// dockerEngine looks for an engine once in a process.
var dockerEngine = sync.OnceValues(findEngine)

// findEngine looks for an engine. A client without an engine is no Docker. The client is needed too: the watchdog, a
// shell, removes containers with it.
func findEngine() (*engine, error) {
	client, err := exec.LookPath("docker")
	if err != nil {
		return nil, errors.New("no docker command found")
	}
	e := &engine{endpoint: dockerEndpoint(client), bind: "127.0.0.1", dial: "127.0.0.1"}
	u, err := url.Parse(e.endpoint)
	if err != nil || u.Scheme == "ssh" {
		return nil, errors.New("the engine's address is none that is understood here")
	}
	if host := u.Hostname(); host != "" && host != "localhost" && host != "127.0.0.1" {
		e.bind, e.dial = "0.0.0.0", host // an engine elsewhere, as a CI's sidecar
	}
	if e.pool, err = dockertest.NewPool(e.endpoint); err != nil {
		return nil, fmt.Errorf("its client cannot be set up: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), engineTimeout)
	defer cancel()
	if err := e.pool.Client.PingWithContext(ctx); err != nil {
		return nil, errors.New("no engine answers")
	}
	return e, nil
}

// dockerEndpoint is where the docker command itself would look: DOCKER_HOST, or the current context, which on a
// desktop is rarely the default socket.
func dockerEndpoint(client string) string {
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		return host
	}
	ctx, cancel := context.WithTimeout(context.Background(), engineTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, client, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}").Output()
	if host := strings.TrimSpace(string(out)); err == nil && strings.Contains(host, "://") {
		return host
	}
	return "unix:///var/run/docker.sock"
}

// DockerError is nil when a Docker engine answers.
func DockerError() error {
	_, err := dockerEngine()
	return err
}

// HasImage says whether a Docker engine answers and has the image.
func HasImage(image string) bool {
	e, err := dockerEngine()
	return err == nil && e.has(image)
}

func (e *engine) has(image string) bool {
	_, err := e.pool.Client.InspectImage(image)
	return err == nil
}

func (e *engine) pull(ctx context.Context, image string, log func(string)) error {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	log("pulling the image " + image)
	repository, tag, _ := strings.Cut(image, ":")
	err := e.pool.Client.PullImage(docker.PullImageOptions{Context: ctx, Repository: repository, Tag: tag}, docker.AuthConfiguration{})
	if err != nil {
		return fmt.Errorf("the image %s cannot be pulled: %w", image, err)
	}
	return nil
}

// container is a server that runs in a container.
type container struct {
	e     *engine
	name  string
	watch *watchdog
	quit  func() error
	fresh atomic.Bool // nobody has called start
}

// removeContainer is run with the name of a container. Its creation may be under way at that moment: it looks again
// for a few seconds.
const removeContainer = `trap '' HUP INT TERM
read -r line && exit 0
i=0
while [ $i -lt 10 ]; do
	[ "$(docker rm -f -v "$1" 2>/dev/null)" = "$1" ] && exit 0
	sleep 0.5
	i=$((i+1))
done`

// label marks the containers of this package with the process that they belong to, for a person who finds one.
const label = "headrace.pid"

// run starts a container whose port is published as the given one of this machine.
func (e *engine) run(image string, port int, o *dockertest.RunOptions, inside string, host ...func(*docker.HostConfig)) (*container, error) {
	c := &container{e: e, name: "headrace-" + newPassword()[:16]}
	var err error
	if c.watch, err = startWatchdog(removeContainer, c.name); err != nil {
		return nil, err
	}
	c.quit = sync.OnceValue(c.remove)
	c.fresh.Store(true)
	o.Name = c.name
	o.Repository, o.Tag, _ = strings.Cut(image, ":")
	o.Labels = map[string]string{label: fmt.Sprint(os.Getpid())}
	o.PortBindings = map[docker.Port][]docker.PortBinding{
		docker.Port(inside): {{HostIP: e.bind, HostPort: fmt.Sprint(port)}},
	}
	publish := func(h *docker.HostConfig) {
		h.PublishAllPorts = false
		h.ShmSize = 256 << 20 // Postgres' parallel workers run out of the default 64 MB
	}
	if _, err := e.pool.RunWithOptions(o, append(host, publish)...); err != nil {
		c.stop() //nolint:errcheck // the first error counts
		return nil, fmt.Errorf("%s: %w", image, err)
	}
	return c, nil
}

func (c *container) kill() error {
	err := c.e.pool.Client.KillContainer(docker.KillContainerOptions{ID: c.name, Signal: docker.SIGKILL})
	var not *docker.ContainerNotRunning
	if err != nil && !errors.As(err, &not) {
		return err
	}
	_, err = c.e.pool.Client.WaitContainer(c.name)
	return err
}

func (c *container) start() error {
	if c.fresh.Swap(false) {
		return nil // it has been running since its creation
	}
	return c.e.pool.Client.StartContainer(c.name, nil)
}

func (c *container) alive() error {
	in, err := c.e.pool.Client.InspectContainer(c.name)
	if err != nil {
		return err
	}
	if in.State.Running {
		return nil
	}
	var log bytes.Buffer
	c.e.pool.Client.Logs(docker.LogsOptions{ //nolint:errcheck // then the log is empty
		Container: c.name, OutputStream: &log, ErrorStream: &log, Stdout: true, Stderr: true, Tail: "8",
	})
	text := strings.ReplaceAll(strings.TrimSpace(log.String()), "\n", " | ")
	return fmt.Errorf("the container ended: %s", strings.ToValidUTF8(text, "?"))
}

// exec runs a command of the shell in the container.
func (c *container) exec(command string) error {
	in, err := c.e.pool.Client.InspectContainer(c.name)
	if err != nil {
		return err
	}
	r, ok := c.e.pool.ContainerByName(strings.TrimPrefix(in.Name, "/"))
	if !ok {
		return fmt.Errorf("no container %s", c.name)
	}
	var out bytes.Buffer
	code, err := r.Exec([]string{"sh", "-c", command}, dockertest.ExecOptions{StdOut: &out, StdErr: &out})
	if err == nil && code != 0 {
		err = fmt.Errorf("%s: exit code %d: %s", command, code, strings.TrimSpace(out.String()))
	}
	return err
}

func (c *container) stop() error { return c.quit() }

func (c *container) remove() error {
	err := c.e.pool.Client.RemoveContainer(docker.RemoveContainerOptions{ID: c.name, Force: true, RemoveVolumes: true})
	var gone *docker.NoSuchContainer
	if errors.As(err, &gone) {
		err = nil
	}
	if err != nil {
		c.watch.alert()
		return err
	}
	c.watch.dismiss()
	return nil
}
