package redisx

import (
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"strings"

	"github.com/redis/rueidis"
)

// NumberLua begins every script that reads numbers. It defines number, isTime and timeOf.
//
//go:embed number.lua
var NumberLua string

// CallLua defines call, which does what redis.call does and whose error about a key of another type
// names the key.
//
//go:embed call.lua
var CallLua string

// RightsLua defines needs, which ends a script before its first write if the user lacks a right.
//
//go:embed rights.lua
var RightsLua string

// AllowOOM is the header that lets a script write while Redis is at maxmemory.
const AllowOOM = "#!lua flags=allow-oom\n"

// Script is a Lua script in both its forms, without and with the allow-oom header. It is immutable.
type Script struct {
	plain, oom text
}

type text struct{ body, sha string }

// NewScript returns the script that consists of parts, in their order.
func NewScript(parts ...string) *Script {
	body := strings.Join(parts, "")
	return &Script{plain: newText(body), oom: newText(AllowOOM + body)}
}

func newText(body string) text {
	sum := sha1.Sum([]byte(body))
	return text{body: body, sha: hex.EncodeToString(sum[:])}
}

// Call is one run of a script.
type Call struct {
	Script *Script
	// Keys are its KEYS. One of them must be a key that never exists; see the package comment.
	Keys []string
	Args []string
	// AllowOOM lets the script write while Redis is at maxmemory: for scripts that free memory in the
	// end.
	AllowOOM bool
}

// Run runs a script, and retries while the server refuses it.
func (s *Server) Run(ctx context.Context, c Call) (r rueidis.RedisResult) {
	_ = s.Retry(ctx, func() error { // its error is the last one of r
		r = s.Once(ctx, c, nil)[0]
		return r.Error()
	})
	return r
}

// Once runs a script and then the commands that more returns, in one round trip: one pipeline,
// except in a cluster, where the client may use several connections. It does not retry. The result
// of the script comes first. When the server does not know the script, everything is sent again
// with its text, so the commands of more must be reads.
func (s *Server) Once(ctx context.Context, c Call, more func() []rueidis.Completed) []rueidis.RedisResult {
	r := s.send(ctx, s.Evalsha(c), more)
	if s.NeedsText(r[0].Error()) {
		r = s.send(ctx, s.Eval(c), more)
	}
	s.textRefused(r[0].Error())
	r[0] = s.Named(ctx, c, r[0])
	return r
}

func (s *Server) send(ctx context.Context, script rueidis.Completed, more func() []rueidis.Completed) []rueidis.RedisResult {
	if more == nil {
		return []rueidis.RedisResult{s.client.Do(ctx, script)}
	}
	return s.client.DoMulti(ctx, append([]rueidis.Completed{script}, more()...)...)
}

func (s *Server) text(c Call) text {
	if c.AllowOOM && s.takesHeaders {
		return c.Script.oom
	}
	return c.Script.plain
}

// Evalsha builds the command that runs a script by its hash, if the server takes that. In a
// pipeline, run the script again if its error NeedsText.
func (s *Server) Evalsha(c Call) rueidis.Completed {
	if s.textOnly.Load() {
		return s.Eval(c)
	}
	return s.client.B().Evalsha().Sha1(s.text(c).sha).Numkeys(int64(len(c.Keys))).Key(c.Keys...).Arg(c.Args...).Build()
}

// Eval builds the command that runs a script by its text, for a pipeline that cannot be sent again
// when the server does not know the script.
func (s *Server) Eval(c Call) rueidis.Completed {
	return s.client.B().Eval().Script(s.text(c).body).Numkeys(int64(len(c.Keys))).Key(c.Keys...).Arg(c.Args...).Build()
}

// NeedsText reports whether a script did not run because the server has only its hash: it does not
// know the script, or EVALSHA was renamed or is not permitted. In the second case all scripts run
// by their text from then on.
func (s *Server) NeedsText(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	if !ok {
		return false
	}
	if lower := strings.ToLower(e.Error()); strings.Contains(lower, "'evalsha'") {
		s.textOnly.Store(true)
		return true
	}
	return e.IsNoScript()
}

// textRefused notes that the user may not run a script's text either. A user who has lost all
// rights for a moment, while an operator changes them, shows nothing about EVALSHA.
func (s *Server) textRefused(err error) {
	if NoPermission(err) && strings.Contains(strings.ToLower(err.Error()), "'eval'") {
		s.textOnly.Store(false)
	}
}
