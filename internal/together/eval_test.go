package together_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/window"
)

// A server that runs no scripts, because EVAL is renamed or the user has no right to it: every
// package reports that when it is opened, and prints no script.
func TestServerWithoutScripts(t *testing.T) {
	t.Parallel()
	renamed := servertest.OwnRedis(t, "--rename-command", "EVAL", "")
	forbidden := servertest.OwnRedis(t)
	admin := forbidden.Client(t)
	if err := admin.Do(t.Context(), admin.B().Arbitrary("ACL", "SETUSER", "u", "on", ">secret", "~*", "&*", "+@all", "-eval").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	o := redisxtest.Options(t, forbidden.URL)
	o.Username, o.Password = "u", "secret"
	user, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(user.Close)
	quiet := slog.New(slog.DiscardHandler)
	for server, c := range map[string]rueidis.Client{"renamed": renamed.Client(t), "forbidden": user} {
		for what, open := range map[string]func(ctx context.Context) error{
			"queue": func(ctx context.Context) error {
				_, err := queue.New(ctx, c, "x", queue.Config{Logger: quiet})
				return err
			},
			"dedup": func(ctx context.Context) error {
				_, err := dedup.New(ctx, c, "x", dedup.Config{Logger: quiet})
				return err
			},
			"window": func(ctx context.Context) error {
				_, err := window.New(ctx, c, "x", window.Config{Size: time.Second})
				return err
			},
			"lookup": func(ctx context.Context) error {
				_, err := lookup.New(ctx, c, "x", lookup.Config[string, string]{})
				return err
			},
			"backpressure": func(ctx context.Context) error {
				_, err := backpressure.New(ctx, c, "x", backpressure.Config{Records: []backpressure.Source{{List: "{x}:ready"}}})
				return err
			},
		} {
			err := open(t.Context())
			if err == nil || !strings.Contains(err.Error(), "the server runs no scripts") || strings.Contains(err.Error(), "local ") {
				t.Errorf("%s: %s: got %v, want that the server runs no scripts", server, what, err)
			}
		}
	}
}

// On a server that has renamed a command, each error names the command, also one of a script that
// is part of a pipeline.
func TestRenamedCommandIsNamed(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t, "--rename-command", "HLEN", "")
	calls, _ := openAll(t, own.Client(t))
	failed := map[string]bool{}
	for what, call := range calls {
		if err := call(); err != nil {
			failed[what] = true
			if !strings.Contains(err.Error(), "'HLEN'") {
				t.Errorf("%s: got %v, want an error that names HLEN", what, err)
			}
		}
	}
	if !failed["delayed push"] || !failed["refresh"] {
		t.Errorf("got errors of %v, want one of a delayed push and one of a refresh", failed)
	}
}
