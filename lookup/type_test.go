package lookup_test

import (
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
)

// Each key of a table is overwritten with another type, in turn. A call that fails because of it
// names the key, and has changed nothing.
func TestWrongTypeNamesTheKey(t *testing.T) {
	t.Parallel()
	c, ctx := servertest.Redis(t), t.Context()
	for _, test := range []struct {
		kind  string
		least int // calls that fail
	}{{"current", 3}, {"lock", 1}, {"part", 1}} {
		name := servertest.Prefix(t)
		cfg := lookup.Config[string, int]{Load: numbers(3), Chunk: 1}
		table := newTable(t, c, name, cfg)
		version := refresh(t, table).Version
		key := "{" + name + "}:lookup:" + test.kind
		if test.kind == "part" {
			key = partsOf(t, c, name, version)[1]
		}
		for _, err := range []error{
			c.Do(ctx, c.B().Del().Key(key).Build()).Error(),
			c.Do(ctx, c.B().Rpush().Key(key).Element("x").Build()).Error(),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		failed := 0
		check := func(what string, call func() error) {
			t.Helper()
			before := redisxtest.Dump(t, c, name)
			err := call()
			if err == nil {
				return
			}
			failed++
			if !strings.Contains(err.Error(), key+" is a list, must be a ") || !strings.Contains(err.Error(), "WRONGTYPE") {
				t.Errorf("%s: %s: got %v, want an error about its type that names the key", key, what, err)
			}
			if after := redisxtest.Dump(t, c, name); after != before {
				t.Errorf("%s: %s: got %v, and keys that have changed, want none", key, what, err)
			}
		}
		fresh := newTable(t, c, name, cfg)
		check("Stats", func() error { _, err := fresh.Stats(ctx); return err })
		check("Sync", func() error { return fresh.Sync(ctx) })
		check("Refresh", func() error { _, err := fresh.Refresh(ctx); return err })
		if failed < test.least {
			t.Errorf("%s: %d calls failed because of its type, want %d or more", key, failed, test.least)
		}
	}
}
