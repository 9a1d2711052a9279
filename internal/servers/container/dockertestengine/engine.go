// Package dockertestengine drives a Docker engine through dockertest. The tests use it, so the
// library's client and everything that it imports stay out of the programs.
package dockertestengine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/ory/dockertest/v3"
	"github.com/ory/dockertest/v3/docker"

	"github.com/headrace/headrace/internal/servers/container"
)

type engine struct {
	pool    *dockertest.Pool
	address container.Address
}

// Find returns the engine that the docker command uses. The command must exist: the watchdog, a
// shell script, removes containers with it.
func Find() (container.Engine, error) {
	client, err := exec.LookPath("docker")
	if err != nil {
		return nil, errors.New("no docker command found")
	}
	endpoint := container.Endpoint(client)
	address, ok := container.AddressOf(endpoint)
	if !ok {
		return nil, errors.New("the engine's address is not supported")
	}
	pool, err := dockertest.NewPool(endpoint)
	if err != nil {
		return nil, fmt.Errorf("the Docker client cannot be set up: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), container.AnswerTimeout)
	defer cancel()
	if err := pool.Client.PingWithContext(ctx); err != nil {
		return nil, errors.New("no engine answers")
	}
	return &engine{pool, address}, nil
}

func (e *engine) Address() container.Address { return e.address }

func (e *engine) HasImage(image string) bool {
	_, err := e.pool.Client.InspectImage(image)
	return err == nil
}

func (e *engine) Pull(ctx context.Context, image string) error {
	repository, tag, _ := strings.Cut(image, ":")
	return e.pool.Client.PullImage(docker.PullImageOptions{Context: ctx, Repository: repository, Tag: tag}, docker.AuthConfiguration{})
}

func (e *engine) Run(s container.Spec) error {
	o := &dockertest.RunOptions{Name: s.Name, Labels: s.Labels, Cmd: s.Cmd, ExtraHosts: s.ExtraHosts}
	o.Repository, o.Tag, _ = strings.Cut(s.Image, ":")
	for k, v := range s.Env {
		o.Env = append(o.Env, k+"="+v)
	}
	if s.Entrypoint != "" {
		o.Entrypoint = []string{s.Entrypoint}
	}
	if !s.HostNetwork {
		o.PortBindings = map[docker.Port][]docker.PortBinding{
			docker.Port(fmt.Sprintf("%d/tcp", s.Inside)): {{HostIP: e.address.Bind, HostPort: strconv.Itoa(s.Port)}},
		}
	}
	_, err := e.pool.RunWithOptions(o, func(h *docker.HostConfig) {
		h.PublishAllPorts = false
		h.ShmSize = container.SharedMemory
		if s.Memory != "" {
			h.Tmpfs = map[string]string{s.Memory: ""}
		}
		if s.HostNetwork {
			h.NetworkMode = "host"
		}
	})
	return err
}

func (e *engine) Kill(name string) error {
	err := e.pool.Client.KillContainer(docker.KillContainerOptions{ID: name, Signal: docker.SIGKILL})
	if err != nil && !errors.As(err, new(*docker.ContainerNotRunning)) {
		return err
	}
	_, err = e.pool.Client.WaitContainer(name)
	return err
}

func (e *engine) Start(name string) error { return e.pool.Client.StartContainer(name, nil) }

func (e *engine) Inspect(name string) (container.State, error) {
	in, err := e.pool.Client.InspectContainer(name)
	if err != nil || in.State.Running {
		return container.State{Running: err == nil}, err
	}
	var log bytes.Buffer
	err = e.pool.Client.Logs(docker.LogsOptions{
		Container: name, OutputStream: &log, ErrorStream: &log, Stdout: true, Stderr: true, Tail: "8",
	})
	return container.State{Log: strings.ToValidUTF8(strings.TrimSpace(log.String()), "?")}, err
}

func (e *engine) Exec(name, command string) error {
	in, err := e.pool.Client.InspectContainer(name)
	if err != nil {
		return err
	}
	r, ok := e.pool.ContainerByName(strings.TrimPrefix(in.Name, "/"))
	if !ok {
		return fmt.Errorf("no container %s", name)
	}
	var out bytes.Buffer
	code, err := r.Exec([]string{"sh", "-c", command}, dockertest.ExecOptions{StdOut: &out, StdErr: &out})
	if err == nil && code != 0 {
		err = fmt.Errorf("%s: exit status %d: %s", command, code, strings.TrimSpace(out.String()))
	}
	return err
}

func (e *engine) Remove(name string) error {
	err := e.pool.Client.RemoveContainer(docker.RemoveContainerOptions{ID: name, Force: true, RemoveVolumes: true})
	if errors.As(err, new(*docker.NoSuchContainer)) {
		return nil
	}
	return err
}
