package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/headrace/headrace/internal/servers/container"
)

// findEngine finds the Docker engine. UseEngine replaces it.
var findEngine = container.Find

// UseEngine makes the package drive Docker through another implementation. Call it from an init
// function: the engine is looked up once in a process.
func UseEngine(find func() (container.Engine, error)) { findEngine = find }

// dockerEngine finds the engine once in a process.
var dockerEngine = sync.OnceValues(func() (container.Engine, error) { return findEngine() })

// DockerError is nil when a Docker engine answers.
func DockerError() error {
	_, err := dockerEngine()
	return err
}

// HasImage reports whether a Docker engine answers and has the image.
func HasImage(image string) bool {
	e, err := dockerEngine()
	return err == nil && e.HasImage(image)
}

func pull(ctx context.Context, e container.Engine, image string, log func(string)) error {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	log("pulling the image " + image)
	if err := e.Pull(ctx, image); err != nil {
		return fmt.Errorf("cannot pull the image %s: %w", image, err)
	}
	return nil
}

// contained is a server that runs in a container.
type contained struct {
	e     container.Engine
	name  string
	watch *watchdog
	quit  func() error
	fresh atomic.Bool // start has not been called yet
}

// removeContainer runs with the name of a container. The container may be under construction at
// that moment, so the script tries for a few seconds.
const removeContainer = `trap '' HUP INT TERM
read -r line && exit 0
i=0
while [ $i -lt 10 ]; do
	[ "$(docker rm -f -v "$1" 2>/dev/null)" = "$1" ] && exit 0
	sleep 0.5
	i=$((i+1))
done`

// label marks the containers of this package with the id of the process that they belong to.
const label = "headrace.pid"

// runContainer starts a container. It fills the name and the labels of spec.
func runContainer(e container.Engine, spec container.Spec) (*contained, error) {
	c := &contained{e: e, name: "headrace-" + newPassword()[:16]}
	var err error
	if c.watch, err = startWatchdog(removeContainer, c.name); err != nil {
		return nil, err
	}
	c.quit = sync.OnceValue(c.remove)
	c.fresh.Store(true)
	spec.Name, spec.Labels = c.name, map[string]string{label: fmt.Sprint(os.Getpid())}
	if err := e.Run(spec); err != nil {
		c.stop() //nolint:errcheck // the first error counts
		return nil, fmt.Errorf("%s: %w", spec.Image, err)
	}
	return c, nil
}

func (c *contained) kill() error { return c.e.Kill(c.name) }

func (c *contained) start() error {
	if c.fresh.Swap(false) {
		return nil // the engine started it when it was created
	}
	return c.e.Start(c.name)
}

func (c *contained) alive() error {
	s, err := c.e.Inspect(c.name)
	if err != nil || s.Running {
		return err
	}
	return errors.New("the container ended: " + strings.ReplaceAll(s.Log, "\n", " | "))
}

func (c *contained) exec(command string) error { return c.e.Exec(c.name, command) }

func (c *contained) stop() error { return c.quit() }

func (c *contained) remove() error {
	if err := c.e.Remove(c.name); err != nil {
		c.watch.alert()
		return err
	}
	c.watch.dismiss()
	return nil
}
