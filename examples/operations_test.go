package examples_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

var (
	shellLine   = regexp.MustCompile(`(?m)^\$ (.*)$`)
	inlineVerbs = regexp.MustCompile("`(headrace [a-z][^`]*)`")
)

// Every command of docs/operations.md does what an operator expects of it: it ends with 0 on a
// pipeline that works.
func TestCommandsOfTheOperationsGuide(t *testing.T) {
	t.Parallel()
	s := own(t)
	c := cli{t, s.env()}
	for _, line := range []string{"init-cache", "generate -orders 500 -bad 0.02", "process -empty", "promote -empty", "generate -orders 20"} {
		c.ok(line)
	}
	guide, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, m := range shellLine.FindAllStringSubmatch(string(guide), -1) {
		commands = append(commands, m[1])
	}
	for _, m := range inlineVerbs.FindAllStringSubmatch(strings.ReplaceAll(string(guide), "\n", " "), -1) {
		if strings.Contains(m[1], "--watch") || m[1] == "headrace console" || m[1] == "headrace grants print" || m[1] == "headrace find ID" {
			continue // it goes on until Ctrl-C, lacks its argument, or asks: all are among the other tests
		}
		commands = append(commands, m[1])
	}
	if len(commands) < 40 {
		t.Fatalf("the guide has %d commands, want at least 40", len(commands))
	}
	dir, done := t.TempDir(), make(map[string]bool)
	for _, line := range commands {
		if done[line] {
			continue
		}
		done[line] = true
		if out, err := build(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a command that goes on until Ctrl-C hangs
		cmd := exec.CommandContext(ctx, "sh", "-c", line)
		cmd.Dir, cmd.WaitDelay = dir, time.Second
		cmd.Env = append(s.env(), "PATH="+binaries+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", line, errors.Join(err, ctx.Err()), out)
		}
		cancel()
	}
}
