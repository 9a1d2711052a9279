package dedup_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// Each key of a window is overwritten with another type, in turn. A call that fails because of it
// names the key. One that fails because of the state or the guard has changed nothing.
func TestWrongTypeNamesTheKey(t *testing.T) {
	t.Parallel()
	c, ctx := servertest.Redis(t), t.Context()
	for _, test := range []struct {
		kind  string
		least int // calls that fail
	}{{"state", 9}, {"guard", 1}, {"index", 3}, {"log", 3}} {
		name := servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{})
		batch := dedup.Batch{Root: "a", Records: 1, Guard: guard(t, c, name, "a")}
		claim(t, d, batch, nil, "x")
		key := batch.Guard
		if test.kind != "guard" {
			key = keyOfKind(t, c, name, test.kind)
		}
		do(t, c, c.B().Del().Key(key).Build())
		do(t, c, c.B().Rpush().Key(key).Element("x").Build())
		failed := 0
		check := func(what string, call func() error) {
			t.Helper()
			before := redisxtest.Dump(t, c, name)
			err := call()
			if err == nil {
				return
			}
			failed++
			if !errors.Is(err, dedup.ErrDamaged) || !strings.Contains(err.Error(), key+" is a list, must be a ") {
				t.Errorf("%s: %s: got %v, want ErrDamaged with the key", key, what, err)
			}
			if after := redisxtest.Dump(t, c, name); after != before && (test.kind == "state" || test.kind == "guard") {
				t.Errorf("%s: %s: got %v, and keys that have changed, want none", key, what, err)
			}
		}
		claims := []dedup.Claim{{Root: "a", ID: "x"}}
		check("New", func() error { _, err := dedup.New(ctx, c, name, dedup.Config{}); return err })
		check("Stats", func() error { _, err := d.Stats(ctx); return err })
		check("Seen", func() error { _, err := d.Seen(ctx, "x"); return err })
		check("Holders", func() error { _, err := d.Holders(ctx, "x"); return err })
		check("Undo", func() error { _, err := d.Undo(ctx, claims); return err })
		check("Claim", func() error { _, err := d.Claim(ctx, batch, nil, []string{"x"}); return err })
		check("Claim without a guard", func() error {
			_, err := d.Claim(ctx, dedup.Batch{Root: "b", Records: 2}, nil, []string{"x", "y"})
			return err
		})
		check("Mark", func() error { _, err := d.Mark(ctx, "x"); return err })
		check("Release", func() error { _, err := d.Release(ctx, claims...); return err })
		check("Forget", func() error { _, err := d.Forget(ctx, "x"); return err })
		if failed < test.least {
			t.Errorf("%s: %d calls failed because of its type, want %d or more", key, failed, test.least)
		}
	}
}
