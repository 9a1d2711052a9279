// Package container runs throwaway servers in containers of a Docker engine.
//
// [Find] returns an engine that it drives through the docker command, so a program that starts a
// container does not link a Docker client. Package dockertestengine drives the same interface
// through dockertest; the tests use it.
package container

import (
	"context"
	"net/url"
)

// Spec describes a container.
type Spec struct {
	// Name is the container's name. Every other call refers to it by this name.
	Name  string
	Image string
	// Labels are for a person who finds the container.
	Labels map[string]string
	// Env holds the environment variables of the container. They may contain secrets: an
	// implementation must not put them on a command line.
	Env map[string]string
	// Entrypoint replaces the image's entrypoint if it is not empty.
	Entrypoint string
	Cmd        []string
	// Port is published on the engine's [Address.Bind] and forwards to Inside.
	Port, Inside int
	// HostNetwork shares the network of the engine's machine. Port is then not published.
	HostNetwork bool
	// Memory, if not empty, is a directory whose files are kept in memory. They are lost when the
	// container ends.
	Memory string
	// ExtraHosts are "name:address" entries for the container's hosts file.
	ExtraHosts []string
}

// SharedMemory is the size of a container's /dev/shm in bytes. Postgres' parallel workers exhaust
// Docker's default of 64 MB.
const SharedMemory = 256 << 20

// Address describes where published ports are.
type Address struct {
	// Bind is the address on which the engine publishes ports. Dial is the address under which
	// this machine reaches them.
	Bind, Dial string
}

// State is the state of a container.
type State struct {
	Running bool
	// Log is the end of the container's output.
	Log string
}

// Engine is a Docker engine that answered. Implementations are safe for concurrent use.
type Engine interface {
	Address() Address
	// HasImage reports whether the engine has the image.
	HasImage(image string) bool
	Pull(ctx context.Context, image string) error
	// Run creates and starts a container. After an error the container may exist.
	Run(s Spec) error
	// Kill sends SIGKILL to the container and waits until it has exited. Killing a container that
	// is not running is no error.
	Kill(name string) error
	// Start starts a container that has exited.
	Start(name string) error
	Inspect(name string) (State, error)
	// Exec runs a shell command inside the container. The error contains the command's output.
	Exec(name, command string) error
	// Remove removes a container, running or not, and its volumes. A container that does not exist
	// is no error.
	Remove(name string) error
}

// AddressOf returns where the engine at an endpoint ("unix:///var/run/docker.sock",
// "tcp://docker:2375") publishes its ports. It returns false if it does not understand the
// endpoint.
func AddressOf(endpoint string) (Address, bool) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme == "ssh" {
		return Address{}, false
	}
	if host := u.Hostname(); host != "" && host != "localhost" && host != "127.0.0.1" {
		return Address{Bind: "0.0.0.0", Dial: host}, true // another machine, for example a CI sidecar
	}
	return Address{Bind: "127.0.0.1", Dial: "127.0.0.1"}, true
}
