//go:build unix

package servers

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/container"
)

// fakeEngine is a Docker engine that has some images and can pull others.
type fakeEngine struct {
	container.Engine // nil: the search calls nothing but the methods below
	has, pulls       []string
}

func (e *fakeEngine) HasImage(image string) bool { return slices.Contains(e.has, image) }

func (e *fakeEngine) Pull(_ context.Context, image string) error {
	if !slices.Contains(e.pulls, image) {
		return errors.New("no such image")
	}
	return nil
}

func newFakeEngine(has, pulls []string) func() (container.Engine, error) {
	return func() (container.Engine, error) { return &fakeEngine{has: has, pulls: pulls}, nil }
}

func noEngine() (container.Engine, error) { return nil, errors.New("no engine answers") }

func TestSearchOrder(t *testing.T) {
	t.Parallel()
	present := newFakeEngine([]string{"x:1"}, nil)
	canPull := newFakeEngine(nil, []string{"x:1"})
	empty := newFakeEngine(nil, nil)
	failed := errors.New("it failed")

	for name, c := range map[string]struct {
		o       Options
		engine  func() (container.Engine, error)
		docker  error
		local   error
		want    string // the way that wins, or ""
		message string // in the error, when none does
	}{
		"an engine with the image comes first":         {engine: present, want: "docker x:1"},
		"then this machine, before any pull":           {engine: canPull, want: "local"},
		"then a pull":                                  {engine: canPull, local: absent{failed}, want: "docker x:1"},
		"no engine, no Docker":                         {engine: noEngine, want: "local"},
		"a container that fails is no end":             {engine: present, docker: failed, want: "local"},
		"no demo, nothing embedded":                    {engine: empty, local: absent{failed}, message: "cannot pull the image x:1"},
		"a demo may use what is embedded":              {o: Options{Demo: true}, engine: noEngine, local: absent{failed}, want: "embedded"},
		"a demo still prefers real servers":            {o: Options{Demo: true}, engine: noEngine, want: "local"},
		"local means local":                            {o: Options{Mode: Local}, engine: present, want: "local"},
		"local without programs is an error":           {o: Options{Mode: Local}, engine: present, local: absent{failed}, message: "this machine: it failed"},
		"docker means docker":                          {o: Options{Mode: Docker}, engine: noEngine, message: "Docker: no engine answers"},
		"docker pulls":                                 {o: Options{Mode: Docker}, engine: canPull, want: "docker x:1"},
		"embedded means embedded":                      {o: Options{Mode: Embedded}, engine: present, want: "embedded"},
		"an image of its own limits it to containers":  {o: Options{Image: "y:2"}, engine: newFakeEngine([]string{"y:2"}, nil), want: "docker y:2"},
		"an image of its own is looked for":            {o: Options{Image: "y:2"}, engine: present, message: "cannot pull the image y:2"},
		"an image of its own and local cannot be both": {o: Options{Image: "y:2", Mode: Local}, engine: present, message: "allows no container"},
		"a bad mode":                                   {o: Options{Mode: "remote"}, engine: present, message: `"remote", must be auto, local, docker or embedded`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := ways[string]{
				server: "Thing", image: "x:1", engine: c.engine,
				docker: func(_ context.Context, _ container.Engine, image string) (string, error) {
					return "docker " + image, c.docker
				},
				local:    func(context.Context) (string, error) { return "local", c.local },
				embedded: func(context.Context) (string, error) { return "embedded", nil },
			}
			c.o.Mode = cmp.Or(c.o.Mode, Auto) // independent of HEADRACE_SERVERS
			got, err := w.find(t.Context(), c.o)
			if c.want != "" && (err != nil || got != c.want) {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
			if c.want == "" && (err == nil || !strings.Contains(err.Error(), c.message)) {
				t.Errorf("got %q, %v; want an error with the text %q", got, err, c.message)
			}
		})
	}
}

func TestNoServerIsOneMessageWithThreeWays(t *testing.T) {
	t.Parallel()
	find := func(server string, failure error) error {
		_, err := ways[string]{
			server: server, image: "x:1", engine: noEngine,
			local: func(context.Context) (string, error) { return "", failure },
		}.find(t.Context(), Options{Mode: Auto})
		return err
	}
	broken := errors.New("its library is missing")
	err := joinMissing(find("Redis", absent{errors.New("no redis-server found")}), nil, find("Postgres", broken))
	text := err.Error()
	for _, want := range []string{
		"no Redis and no Postgres could be started", "no engine answers", "no redis-server found", "its library is missing",
		"REDIS_URL and DATABASE_URL", "Docker", "apt-get install redis-server postgresql pgbouncer", "brew install redis postgresql pgbouncer",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q", want)
		}
	}
	if n := strings.Count(text, "Three ways"); n != 1 {
		t.Errorf("the text lists the ways %d times:\n%s", n, text)
	}
	if !errors.Is(err, broken) {
		t.Error("the error of a way that exists and failed is lost")
	}
	var missing *NoServerError
	if !errors.As(err, &missing) || len(missing.Servers) != 2 {
		t.Errorf("not a NoServerError of two servers: %v", missing)
	}

	other := errors.New("another matter")
	if err := joinMissing(nil, find("Redis", broken), other); !errors.Is(err, other) || strings.Count(err.Error(), "Three ways") != 1 {
		t.Errorf("one missing server and another error: %v", err)
	}
	if err := joinMissing(nil, nil); err != nil {
		t.Errorf("nothing is missing: %v", err)
	}
}

func TestSearchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	tried := 0
	_, err := ways[string]{
		server: "Thing", image: "x:1", engine: noEngine,
		local:    func(context.Context) (string, error) { tried++; cancel(); return "", errors.New("interrupted") },
		embedded: func(context.Context) (string, error) { tried++; return "embedded", nil },
	}.find(ctx, Options{Mode: Auto, Demo: true})
	if !errors.Is(err, context.Canceled) || tried != 1 {
		t.Errorf("got %v after %d tries, want the cancellation after one", err, tried)
	}
}
