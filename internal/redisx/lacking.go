package redisx

import (
	"context"
	_ "embed"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

//go:embed lacking.lua
var lackingLua string

var (
	// luaCommand finds the commands that a script runs.
	luaCommand = regexp.MustCompile(`\b(?:p?call|callOr|read)\((?:[\w{}]+, )?'([A-Z_]+)'`)
	// luaLine finds the line of a script in its error.
	luaLine = regexp.MustCompile(`@user_script:(\d+)`)
)

// isUnnamed reports whether a script failed because the server does not have one of its commands,
// or the user may not run it, and the error does not name the command.
func isUnnamed(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && (strings.Contains(e.Error(), "Unknown Redis command called from script") || // renamed
		strings.Contains(e.Error(), "can't run this command")) // Redis 7.0
}

// Named returns r, the result of c, or one whose error names the command that r's error is about.
// It takes a round trip only for an error that names none. The sender of a pipeline built with Eval
// calls it; Run, Once and RunDurably do so themselves.
func (s *Server) Named(ctx context.Context, c Call, r rueidis.RedisResult) rueidis.RedisResult {
	err := r.Error()
	if !isUnnamed(err) {
		return r
	}
	ctx, cancel := Briefly(ctx)
	defer cancel()
	commands := commandsAt(s.text(c).body, err.Error())
	why := s.client.Do(ctx, s.client.B().Eval().Script(lackingLua).Numkeys(1).Key(s.guard).Arg(commands...).Build())
	if _, ok := rueidis.IsRedisErr(why.Error()); !ok {
		return r
	}
	return why
}

// commandsAt returns the commands of the line of a script that an error is about, or all of them if
// that line names none: a function of the script has run it.
func commandsAt(body, failure string) []string {
	part := body
	if m := luaLine.FindStringSubmatch(failure); m != nil {
		lines := strings.Split(body, "\n")
		if n, err := strconv.Atoi(m[1]); err == nil && n >= 1 && n <= len(lines) && luaCommand.MatchString(lines[n-1]) {
			part = lines[n-1]
		}
	}
	var commands []string
	for _, m := range luaCommand.FindAllStringSubmatch(part, -1) {
		if !slices.Contains(commands, m[1]) {
			commands = append(commands, m[1])
		}
	}
	return commands
}
