package backpressure_test

import (
	"strings"
	"testing"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// Each key of a gate is overwritten with another type, in turn. A call that fails because of it
// names the key.
func TestWrongTypeNamesTheKey(t *testing.T) {
	t.Parallel()
	c, ctx := servertest.Redis(t), t.Context()
	for _, set := range []string{"state", "held", "queue", "waiters"} {
		name := servertest.Prefix(t)
		cfg := backpressure.Config{High: 10, Records: []backpressure.Source{{List: "{" + name + "}:ready"}}}
		g, err := backpressure.New(ctx, c, name, cfg)
		if err != nil {
			t.Fatal(err)
		}
		r, err := g.Acquire(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		key := "{" + name + "}:gate:" + set
		if err := c.Do(ctx, c.B().Set().Key(key).Value("x").Build()).Error(); err != nil {
			t.Fatal(err)
		}
		failed := 0
		check := func(call string, err error) {
			t.Helper()
			if err == nil {
				return
			}
			failed++
			if !strings.Contains(err.Error(), key) {
				t.Errorf("%s: %s: got %v, want an error that names the key", key, call, err)
			}
		}
		_, err = g.Stats(ctx)
		check("Stats", err)
		_, err = g.Audit(ctx)
		check("Audit", err)
		_, err = g.TryAcquire(ctx, 1)
		check("TryAcquire", err)
		check("Notify", g.Notify(ctx))
		check("Release", r.Release(ctx))
		_, err = backpressure.New(ctx, c, name, cfg)
		check("New", err)
		if failed == 0 {
			t.Errorf("%s: no call failed, want one or more", key)
		}
	}
}
