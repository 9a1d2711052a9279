package together_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/window"
)

// Every package accepts the same names, and refuses the same ones before it asks the server.
func TestNames(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	c := own.Client(t)
	for _, name := range []string{"grüße", "日本", "a:b*[c]?", "-", "a\\b", "%s%d", "..", "a/b", "N", "'\"`$(x)", strings.Repeat("x", 200)} {
		calls, check := openNamed(t, c, name)
		for what, call := range calls {
			if err := call(); err != nil {
				t.Errorf("%q: %s: %v", name, what, err)
			}
		}
		check()
	}
	ctx := t.Context()
	for _, name := range []string{"", "{}", "a{b", "a}b", "a b", "a\tb", "a\x00b", "\xff", strings.Repeat("x", 201), strings.Repeat("ü", 101)} {
		_, q := queue.New(ctx, c, name, queue.Config{})
		_, d := dedup.New(ctx, c, name, dedup.Config{})
		_, w := window.New(ctx, c, name, window.Config{Size: 1e9})
		_, g := backpressure.New(ctx, c, name, backpressure.Config{Records: []backpressure.Source{{List: "{" + name + "}:ready"}}})
		_, l := lookup.New(ctx, c, name, lookup.Config[string, string]{})
		for what, pair := range map[string][2]error{
			"queue": {q, queue.ErrConfig}, "dedup": {d, dedup.ErrConfig}, "window": {w, window.ErrConfig},
			"backpressure": {g, backpressure.ErrConfig}, "lookup": {l, lookup.ErrConfig},
		} {
			if !errors.Is(pair[0], pair[1]) || !strings.HasPrefix(fmt.Sprint(pair[0]), what+": invalid configuration: ") {
				t.Errorf("%q: %s: got %v, want %v", name, what, pair[0], pair[1])
			}
		}
	}
}

// Keys of other programs that look like those of the packages change nothing.
func TestHostileNeighbours(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	c := own.Client(t)
	for _, key := range []string{"{n}", "{n}:", "{n}:queue", "{n}:dedup", "{n}:window:", "{n}:gate", "n:ready", "{n}x:ready", "{nn}:ready", "{n}:readyx", "{n}:lookup"} {
		if err := c.Do(t.Context(), c.B().Set().Key(key).Value("of another program").Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	calls, check := openNamed(t, c, "n")
	for what, call := range calls {
		if err := call(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	check()
	q, err := queue.New(t.Context(), c, "n", queue.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := q.Audit(t.Context()); err != nil || a.Balanced() != nil {
		t.Errorf("queue: got %v, %v, want a balance", a.Balanced(), err)
	}
	d, err := dedup.New(t.Context(), c, "n", dedup.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := d.Audit(t.Context()); err != nil || a.Balanced() != nil {
		t.Errorf("dedup: got %v, %v, want no difference", a.Balanced(), err)
	}
	for _, key := range []string{"{n}", "{n}:queue", "{nn}:ready", "{n}:readyx"} {
		if v, err := c.Do(t.Context(), c.B().Get().Key(key).Build()).ToString(); v != "of another program" || rueidis.IsRedisNil(err) {
			t.Errorf("%s: got %q, %v, want it untouched", key, v, err)
		}
	}
}
