package redisxtest

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// Stops is a client that measures how long each of its commands holds the server. It sends them one
// by one. Where the server is a process of this machine, it measures the time that the server's
// main thread has run, so that other programs on a busy machine do not count. Elsewhere it measures
// the time until the reply. It serves one goroutine.
type Stops struct {
	rueidis.Client

	// Longest is the longest that a command has held the server since Reset, and Command begins with
	// its words.
	Longest time.Duration
	Command string
	// Commands counts the commands since Reset.
	Commands int

	stat string // the file that has the time that the server's main thread has run
}

// NewStops returns a measuring client. It sends its commands with c, which stays the caller's.
func NewStops(t testing.TB, c rueidis.Client) *Stops {
	t.Helper()
	info, err := c.Do(t.Context(), c.B().Info().Section("server").Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	s := &Stops{Client: c}
	for line := range strings.Lines(info) {
		if pid, ok := strings.CutPrefix(line, "process_id:"); ok {
			pid = strings.TrimSpace(pid)
			name, err := os.ReadFile("/proc/" + pid + "/comm")
			if err == nil && strings.HasSuffix(strings.TrimSpace(string(name)), "-server") {
				s.stat = fmt.Sprintf("/proc/%s/task/%s/schedstat", pid, pid)
			}
		}
	}
	return s
}

// How returns how s measures, for the line that prints a figure.
func (s *Stops) How() string {
	if s.stat == "" {
		return "until the reply"
	}
	return "processor time"
}

// Reset begins a measurement.
func (s *Stops) Reset() { s.Longest, s.Command, s.Commands = 0, "", 0 }

func (s *Stops) clock() time.Duration {
	if s.stat != "" {
		if text, err := os.ReadFile(s.stat); err == nil {
			ran, _, _ := strings.Cut(string(text), " ")
			if ns, err := strconv.ParseInt(ran, 10, 64); err == nil {
				return time.Duration(ns)
			}
		}
	}
	return time.Duration(time.Now().UnixNano())
}

// Do sends one command.
func (s *Stops) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	words := cmd.Commands()
	name := fmt.Sprint(len(words), " arguments: ")
	for _, w := range words[:min(len(words), 24)] {
		name += w[:min(len(w), 24)] + " "
	}
	begin := s.clock()
	r := s.Client.Do(ctx, cmd)
	if took := s.clock() - begin; took > s.Longest {
		s.Longest, s.Command = took, name
	}
	s.Commands++
	return r
}

// DoMulti sends commands one after the other.
func (s *Stops) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	r := make([]rueidis.RedisResult, len(cmds))
	for i, c := range cmds {
		r[i] = s.Do(ctx, c)
	}
	return r
}
