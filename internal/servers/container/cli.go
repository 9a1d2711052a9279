package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// AnswerTimeout bounds the wait for a Docker engine's first answer.
	AnswerTimeout = 3 * time.Second
	// logLines is the number of lines that State.Log holds.
	logLines = 8
)

// cli drives an engine through the docker command, which knows its contexts and credentials.
type cli struct {
	client  string // path of the docker command
	address Address
}

// Find returns the engine that the docker command uses. A docker command without an engine is an
// error.
func Find() (Engine, error) {
	client, err := exec.LookPath("docker")
	if err != nil {
		return nil, errors.New("no docker command found")
	}
	address, ok := AddressOf(Endpoint(client))
	if !ok {
		return nil, errors.New("the engine's address is not supported")
	}
	c := &cli{client: client, address: address}
	ctx, cancel := context.WithTimeout(context.Background(), AnswerTimeout)
	defer cancel()
	if _, err := c.run(ctx, nil, "version", "--format", "{{.Server.Version}}"); err != nil {
		return nil, errors.New("no engine answers")
	}
	return c, nil
}

// Endpoint returns the address that the docker command uses: DOCKER_HOST, or that of the current
// context, which on a desktop is rarely the default socket.
func Endpoint(client string) string {
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		return host
	}
	ctx, cancel := context.WithTimeout(context.Background(), AnswerTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, client, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}").Output()
	if host := strings.TrimSpace(string(out)); err == nil && strings.Contains(host, "://") {
		return host
	}
	return "unix:///var/run/docker.sock"
}

// run runs the docker command and returns its standard output. The error contains its standard
// error, on one line.
func (c *cli) run(ctx context.Context, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.client, args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s", args[0], err, strings.Join(strings.Fields(stderr.String()), " "))
	}
	return strings.TrimSpace(stdout.String()), err
}

// do is run without a time limit: the engine's own limits apply.
func (c *cli) do(args ...string) (string, error) { return c.run(context.Background(), nil, args...) }

func (c *cli) Address() Address { return c.address }

func (c *cli) HasImage(image string) bool {
	_, err := c.do("image", "inspect", "--format", "{{.ID}}", image)
	return err == nil
}

func (c *cli) Pull(ctx context.Context, image string) error {
	_, err := c.run(ctx, nil, "pull", "--quiet", image)
	return err
}

func (c *cli) Run(s Spec) error {
	args := []string{"run", "--detach", "--name", s.Name, "--shm-size", strconv.Itoa(SharedMemory)}
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		args = append(args, "--label", k+"="+s.Labels[k])
	}
	var env []string
	for _, k := range slices.Sorted(maps.Keys(s.Env)) {
		// With the name alone, docker takes the value from its own environment. Every user of this
		// machine can read a command line.
		args, env = append(args, "--env", k), append(env, k+"="+s.Env[k])
	}
	for _, h := range s.ExtraHosts {
		args = append(args, "--add-host", h)
	}
	if s.Memory != "" {
		args = append(args, "--tmpfs", s.Memory)
	}
	if s.HostNetwork {
		args = append(args, "--network", "host")
	} else {
		args = append(args, "--publish", fmt.Sprintf("%s:%d:%d", c.address.Bind, s.Port, s.Inside))
	}
	if s.Entrypoint != "" {
		args = append(args, "--entrypoint", s.Entrypoint)
	}
	_, err := c.run(context.Background(), env, append(append(args, s.Image), s.Cmd...)...)
	return err
}

func (c *cli) Kill(name string) error {
	if _, err := c.do("kill", name); err != nil && !strings.Contains(err.Error(), "is not running") {
		return err
	}
	_, err := c.do("wait", name)
	return err
}

func (c *cli) Start(name string) error {
	_, err := c.do("start", name)
	return err
}

func (c *cli) Inspect(name string) (State, error) {
	running, err := c.do("inspect", "--type", "container", "--format", "{{.State.Running}}", name)
	if err != nil || running == "true" {
		return State{Running: running == "true"}, err
	}
	out, err := exec.Command(c.client, "logs", "--tail", strconv.Itoa(logLines), name).CombinedOutput()
	return State{Log: strings.ToValidUTF8(strings.TrimSpace(string(out)), "?")}, err
}

func (c *cli) Exec(name, command string) error {
	out, err := exec.Command(c.client, "exec", name, "sh", "-c", command).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (c *cli) Remove(name string) error {
	if _, err := c.do("rm", "--force", "--volumes", name); err != nil && !strings.Contains(err.Error(), "No such container") {
		return err
	}
	return nil
}
