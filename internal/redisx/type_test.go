package redisx

import (
	"context"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
)

// WrongType finds the first key that has another type than it must have. It asks only after an
// error about a type, and not after the end of the context.
func TestWrongType(t *testing.T) {
	t.Parallel()
	c, ctx := servertest.Redis(t), t.Context()
	s := open(t, c)
	tag := "{" + servertest.Prefix(t) + "}:"
	must(t, c.Do(ctx, c.B().Lpush().Key(tag+"list").Element("x").Build()).Error())
	must(t, c.Do(ctx, c.B().Set().Key(tag+"string").Value("x").Build()).Error())
	err := c.Do(ctx, c.B().Llen().Key(tag+"string").Build()).Error()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for _, test := range []struct {
		ctx  context.Context
		err  error
		keys []KeyType
		want string
	}{
		{ctx, err, []KeyType{{tag + "none", "hash"}, {tag + "list", "list"}, {tag + "string", "list"}}, tag + "string is a string, must be a list"},
		{ctx, err, []KeyType{{tag + "list", "zset"}, {tag + "string", "list"}}, tag + "list is a list, must be a zset"},
		{ctx, err, []KeyType{{tag + "list", "list"}}, ""},
		{ctx, err, nil, ""},
		{ctx, nil, []KeyType{{tag + "string", "list"}}, ""},
		{ctx, refusal(t, c, "OOM command not allowed"), []KeyType{{tag + "string", "list"}}, ""},
		{ended, err, []KeyType{{tag + "string", "list"}}, ""},
	} {
		got := ""
		if wrong := s.WrongType(test.ctx, test.err, test.keys...); wrong != nil {
			got = wrong.Error()
		}
		if got != test.want {
			t.Errorf("WrongType(%v, %v): got %q, want %q", test.err, test.keys, got, test.want)
		}
	}
}
