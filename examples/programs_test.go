// Package examples_test runs the example programs as a user does: as processes, on real servers.
package examples_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/headrace/headrace/internal/servers/servertest"
)

// hang is how long a test waits for a program before it calls it hung.
const hang = 2 * time.Minute

var binaries string // the directory of the programs

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "headrace-programs-")
	if err != nil {
		panic(err)
	}
	binaries = dir
	servertest.MainAfter(m, func() { os.RemoveAll(dir) })
}

// build compiles the programs, once, as the Dockerfile does: static.
var build = sync.OnceValues(func() (string, error) {
	list := make([]string, len(programs))
	for i, p := range programs {
		list[i] = "./" + p
	}
	cmd := exec.Command("go", append([]string{"build", "-o", binaries + "/"}, list...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	return string(out), err
})

// verbs are those of headrace.
var verbs = []string{
	"headrace init-cache", "headrace generate", "headrace process", "headrace promote", "headrace benchmark", "headrace stats", "headrace peek",
	"headrace dead list", "headrace dead show", "headrace dead requeue", "headrace dead discard", "headrace rejects list", "headrace rejects codes",
	"headrace rejects show", "headrace rejects resolve", "headrace rejects replay", "headrace pause", "headrace resume", "headrace audit",
	"headrace views list", "headrace views refresh", "headrace prune", "headrace schema print", "headrace schema check", "headrace grants print", "headrace lookups list",
	"headrace lookups refresh", "headrace find", "headrace console", "headrace doctor", "headrace clear", "headrace",
}

var programs = []string{"demo", "producer", "worker", "promoter", "stats", "headrace", "cluster"}

func command(t *testing.T, name string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	if out, err := build(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.Command(filepath.Join(binaries, name), args...)
	// A clean environment: HEADRACE_SERVERS and the URLs of the tests' servers must not leak in.
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}, env...)
	return cmd
}

// result is what a program left when it ended.
type result struct {
	code     int
	out, err string
}

// run runs a program to its end.
func run(t *testing.T, name string, env []string, args ...string) result {
	t.Helper()
	p := start(t, name, env, args...)
	return p.wait()
}

// process is a running program.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    bytes.Buffer
	errors *lines
	exited chan struct{}
}

func start(t *testing.T, name string, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: command(t, name, env, args...), exited: make(chan struct{}), errors: newLines()}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, p.errors
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the exit code is in ProcessState
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.exited
	})
	return p
}

func (p *process) wait() result {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(hang):
		p.t.Fatalf("%v hangs; standard error:\n%s", p.cmd.Args, p.errors.text())
	}
	return result{p.cmd.ProcessState.ExitCode(), p.out.String(), p.errors.text()}
}

// reports waits until the program has printed a line that contains the text on standard error.
func (p *process) reports(text string) {
	p.t.Helper()
	if !p.errors.await(text, p.exited) {
		p.t.Fatalf("%v: standard error lacks %q:\n%s", p.cmd.Args, text, p.errors.text())
	}
}

// lines collects an output and lets a test wait for a text in it.
type lines struct {
	mu      sync.Mutex
	buf     strings.Builder
	changed chan struct{} // closed and replaced by each write
}

func newLines() *lines { return &lines{changed: make(chan struct{})} }

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
	return l.buf.Write(b)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lines) await(text string, end <-chan struct{}) bool {
	deadline := time.After(hang)
	for {
		l.mu.Lock()
		found, changed := strings.Contains(l.buf.String(), text), l.changed
		l.mu.Unlock()
		if found {
			return true
		}
		select {
		case <-changed:
		case <-end:
			return strings.Contains(l.text(), text)
		case <-deadline:
			return false
		}
	}
}

func TestHelpFitsAScreen(t *testing.T) {
	t.Parallel()
	for _, name := range slices.Concat(programs[:5], []string{"cluster"}, verbs) {
		for _, flag := range []string{"-h", "--help"} {
			words := strings.Fields(name + " " + flag)
			r := run(t, words[0], nil, words[1:]...) // without any server
			if r.code != 0 || r.err != "" {
				t.Errorf("%s %s: exit code %d, standard error %q; want 0 and nothing", name, flag, r.code, r.err)
			}
			text := strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
			if len(text) > 24 {
				t.Errorf("%s %s prints %d lines, want at most 24:\n%s", name, flag, len(text), r.out)
			}
			for _, line := range text {
				if n := utf8.RuneCountInString(line); n > 80 {
					t.Errorf("%s %s prints a line of %d columns, want at most 80: %s", name, flag, n, line)
				}
			}
			for _, want := range []string{"Usage: " + name, "Example:"} {
				if !strings.Contains(r.out, want) {
					t.Errorf("%s %s: the output lacks %q:\n%s", name, flag, want, r.out)
				}
			}
		}
	}
}

func TestBadCommandLines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, want string }{
		{"promoter -x", "unknown flag -x"},
		{"promoter -orders 5", "unknown flag -orders"},
		{"promoter now", `unexpected argument "now"`},
		{"worker whatever", `unexpected argument "whatever"`},
		{"worker -worker 4", "did you mean -workers?"},
		{"worker batch=5", "did you mean -batch?"},
		{"worker -batch 0", `"0" for flag -batch: must be a whole number from 1 to 100000`},
		{"worker -batch 1e3", "must be a whole number"},
		{"worker -workers 65", "from 1 to 64"},
		{"worker -lease 1ms", "such as 5s or 5 (seconds), at least 1s"},
		{"producer -ordres 10", "did you mean -orders?"},
		{"producer --order=10", "did you mean -orders?"},
		{"producer -orders 0", `"0" for flag -orders: must be a whole number from 1 to 100000000`},
		{"producer -orders", "flag needs an argument: -orders"},
		{"producer -bad NaN", "must be a number from 0 to 0.9"},
		{"producer -bad -1", "must be a number from 0 to 0.9"},
		{"producer -bad 0.6 -duplicates 0.6", "at most 1"},
		{"producer -burst=maybe", "-burst"},
		{"demo -orders many", "must be a whole number"},
		{"demo -bad 0.6 -duplicates 0.6", "at most 1"},
		{"demo -quiet", "unknown flag -quiet"},
		{"headrace", "expected one of"},
		{"headrace stat", `did you mean "stats"?`},
		{"headrace stats extra", "unexpected argument extra"},
		{"headrace generate -ordres 5", `did you mean "--orders"?`},
		{"headrace generate -orders 0", "--orders is 0, must be from 1 to 100000000"},
		{"headrace generate -rate 1e-300", "--rate is 1e-300, must be 0 or from 0.001 to 1000000000"},
		{"headrace generate -bad 0.6 -duplicates 0.6", "at most 1"},
		{"headrace process -batch 0", "--batch is 0, must be from 1 to 100000"},
		{"headrace process -lease soon", `--lease: "soon" must be a duration such as 5s or 5 (seconds)`},
		{"headrace prune -before 9", "--before is 9s, must be at least 1h"},
		{"headrace process -lease 1ms", "--lease is 1ms, must be at least 1s"},
		{"headrace benchmark -total 5", "--total is 5, must be from 1000 to 10000000"},
		{"headrace stats -watch soon", "such as 5s or 5 (seconds)"},
		{"headrace peek everything", "must be one of"},
		{"headrace peek -n 0", "-n is 0, must be from 1 to 1000"},
		{"headrace dead requeue", "name ids of dead letters, or --all"},
		{"headrace dead discard x -all", "name ids of dead letters, or --all"},
		{"headrace clear", "expected"},
		{"headrace clear tables", "must be one of"},
		{"headrace prune", "missing flags: --before"},
		{"headrace prune -before 0", "--before is 0s, must be at least 1h"},
		{"headrace prune -before 1m", "--before is 1m0s, must be at least 1h"},
		{"headrace schema print -lanes 17", "--lanes is 17, must be from 1 to 16"},
		{"headrace schema check -lanes=-1", "--lanes is -1, must be from 1 to 16"},
		{"headrace grants print app -lanes 17", "--lanes is 17, must be from 1 to 16"},
		{"stats -wacht 5", "did you mean -watch?"},
		{"stats -watch 5 5", `unexpected argument "5"`},
		{"stats -watch 0.01", "at least 100ms"},
		{"stats -watch soon", "such as 5s or 5 (seconds)"},
	} {
		args := strings.Fields(c.line)
		r := run(t, args[0], nil, args[1:]...)
		if r.code != 2 {
			t.Errorf("%s: exit code %d, want 2", c.line, r.code)
		}
		if !strings.Contains(r.err, c.want) || strings.Count(r.err, "\n") != 1 || !strings.HasPrefix(r.err, args[0]+": ") || r.out != "" {
			t.Errorf("%s: got %q and %q, want one line on standard error that contains %q", c.line, r.out, r.err, c.want)
		}
	}
}

// A reader that has gone away, as that of "| true", ends each program without a message. Help texts
// are no exception.
func TestWithoutAReader(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"headrace -h", "headrace stats -h", "headrace schema print", "worker -h"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		args := strings.Fields(line)
		cmd := command(t, args[0], nil, args[1:]...)
		var problem strings.Builder
		cmd.Stdout, cmd.Stderr = w, &problem
		err = cmd.Run() // the exit code is checked
		w.Close()
		if code := cmd.ProcessState.ExitCode(); code != 128+int(syscall.SIGPIPE) || problem.String() != "" {
			t.Errorf("%s: got %v, exit code %d and %q; want %d and no message", line, err, code, problem.String(), 128+int(syscall.SIGPIPE))
		}
	}
}

// firstLine runs a command until it has printed a line, and closes its output, as head -1 does.
func firstLine(t *testing.T, cmd *exec.Cmd) (line string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	line, err = bufio.NewReader(r).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	r.Close()
	return line
}
