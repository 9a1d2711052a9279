package servers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/servers/container"
)

// pullTimeout bounds the pull of one image.
const pullTimeout = 5 * time.Minute

// ways are the ways to one kind of server.
type ways[S any] struct {
	server   string // "Redis"
	image    string // the usual one
	docker   func(ctx context.Context, e container.Engine, image string) (S, error)
	local    func(ctx context.Context) (S, error)
	embedded func(ctx context.Context) (S, error) // nil: there is no such thing

	engine func() (container.Engine, error) // nil: dockerEngine
}

// find tries the ways that the options allow, in the order of the package comment. It returns the
// first server that starts, or one error that names what each way lacked.
func (w ways[S]) find(ctx context.Context, o Options) (S, error) {
	var none S
	mode, err := o.mode()
	if err != nil {
		return none, err
	}
	image := w.image
	if o.Image != "" {
		if mode == Local || mode == Embedded {
			return none, fmt.Errorf("%s=%s allows no container, so none of the image %s", EnvMode, mode, o.Image)
		}
		mode, image = Docker, o.Image
	}
	if w.engine == nil {
		w.engine = dockerEngine
	}
	missing := &NoServerError{Servers: []string{w.server}}
	try := func(way string, start func(context.Context) (S, error)) (S, bool) {
		if err = ctx.Err(); err != nil {
			return none, false
		}
		var s S
		if s, err = start(ctx); err == nil {
			return s, true
		}
		missing.add(way, err)
		if !errors.As(err, new(absent)) {
			o.log(fmt.Sprintf("%s: %s failed: %v", w.server, way, err))
		}
		return none, false
	}
	docker := func(mayPull bool) func(context.Context) (S, error) {
		return func(ctx context.Context) (S, error) {
			e, err := w.engine()
			if err != nil {
				return none, absent{err}
			}
			if !e.HasImage(image) {
				if !mayPull {
					return none, absent{fmt.Errorf("the engine does not have the image %s", image)}
				}
				if err := pull(ctx, e, image, o.log); err != nil {
					return none, absent{err}
				}
			}
			return w.docker(ctx, e, image)
		}
	}
	if mode == Auto {
		if s, ok := try("Docker", docker(false)); ok {
			return s, nil
		}
	}
	if mode == Auto || mode == Local {
		if s, ok := try("this machine", w.local); ok {
			return s, nil
		}
	}
	// An engine that is not there is not there a second time, and a container that failed fails again.
	if e, _ := w.engine(); mode == Docker || mode == Auto && e != nil && !e.HasImage(image) {
		if s, ok := try("Docker", docker(true)); ok {
			return s, nil
		}
	}
	if mode == Embedded || mode == Auto && o.Demo {
		if w.embedded == nil {
			missing.add("embedded", absent{fmt.Errorf("there is no embedded %s", w.server)})
		} else if s, ok := try("embedded", w.embedded); ok {
			return s, nil
		}
	}
	if ctx.Err() != nil {
		return none, ctx.Err()
	}
	return none, missing
}

// absent marks the error of a way that does not exist here, in contrast to one that exists and
// failed.
type absent struct{ error }

func (a absent) Unwrap() error { return a.error }

// NoServerError reports that no server is available, what each way lacked, and how to get one.
type NoServerError struct {
	// Servers are the kinds that are missing: "Redis", "Postgres", "PgBouncer".
	Servers []string
	// Tried is what each way lacked, in the order in which they were tried.
	Tried []string

	failed []error // of ways that exist: the servers' own messages
}

func (e *NoServerError) add(way string, err error) {
	e.Tried = append(e.Tried, fmt.Sprintf("%s: %v", way, err))
	if !errors.As(err, new(absent)) {
		e.failed = append(e.failed, err)
	}
}

// Unwrap returns the errors of the ways that exist here and failed.
func (e *NoServerError) Unwrap() []error { return e.failed }

// Ways is how to get servers, for people.
const Ways = `Three ways to get servers:
  1. servers of yours:  set REDIS_URL and DATABASE_URL
  2. containers:        install Docker and start it
  3. programs:          apt-get install redis-server postgresql pgbouncer    (Debian, Ubuntu)
                        brew install redis postgresql pgbouncer              (macOS)`

func (e *NoServerError) Error() string {
	return fmt.Sprintf("no %s could be started (%s).\n%s",
		strings.Join(e.Servers, " and no "), strings.Join(e.Tried, "; "), Ways)
}

// joinMissing makes one error of several: those that report a missing server become one
// message.
func joinMissing(errs ...error) error {
	all := &NoServerError{}
	var rest []error
	for _, err := range errs {
		var m *NoServerError
		switch {
		case err == nil:
		case errors.As(err, &m):
			all.Servers = append(all.Servers, m.Servers...)
			for _, t := range m.Tried {
				all.Tried = append(all.Tried, strings.Join(m.Servers, ", ")+": "+t)
			}
			all.failed = append(all.failed, m.failed...)
		default:
			rest = append(rest, err)
		}
	}
	switch {
	case len(all.Servers) == 1: // without the server's name before each way
		for _, err := range errs {
			if errors.As(err, new(*NoServerError)) {
				rest = append(rest, err)
			}
		}
	case len(all.Servers) > 1:
		rest = append(rest, all)
	}
	return errors.Join(rest...)
}
