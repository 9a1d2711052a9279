//go:build unix

package servers

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// envChild makes the test binary a program that starts servers and waits to be killed. Its value is
// a Mode.
const envChild = "HEADRACE_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(envChild); mode != "" {
		child(Mode(mode))
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// modes are the ways to private servers that this machine has. None is a failure: tests do not
// skip.
func modes(t *testing.T) []Mode {
	t.Helper()
	allowed, err := (&Options{}).mode()
	if err != nil {
		t.Fatal(err)
	}
	var found []Mode
	if allowed == Auto || allowed == Local {
		_, err1 := findRedis()
		_, err2 := findPostgres()
		_, err3 := findPgBouncer()
		if err1 == nil && err2 == nil && err3 == nil {
			found = append(found, Local)
		}
	}
	if allowed == Auto || allowed == Docker {
		if HasImage(RedisImage) && HasImage(PostgresImage) && HasImage(PgBouncerImage) {
			found = append(found, Docker)
		}
	}
	if len(found) == 0 {
		t.Fatal(&NoServerError{Servers: []string{"Redis", "Postgres", "PgBouncer"}, Tried: []string{string(allowed)}})
	}
	return found
}

// report is what the child sends to its parent.
type report struct {
	Dirs       []string
	PIDs       []int
	Containers []string
}

func (r *report) add(in instance) {
	switch in := in.(type) {
	case *local:
		r.Dirs = append(r.Dirs, in.dir)
		r.PIDs = append(r.PIDs, in.cmd.Process.Pid, in.watch.cmd.Process.Pid)
	case *contained:
		r.Containers = append(r.Containers, in.name)
		r.PIDs = append(r.PIDs, in.watch.cmd.Process.Pid)
	}
}

// child starts every kind of server, kills and starts each once more (the watchdog must find the
// new process), reports them, and waits for its end.
func child(mode Mode) {
	set, err := StartSet(context.Background(), SetOptions{Options: Options{Mode: mode, Private: true}, PgBouncer: true})
	check(err)
	for _, s := range []interface {
		Kill() error
		Start() error
	}{set.Redis, set.Postgres, set.PgBouncer} {
		check(s.Kill())
		check(s.Start())
	}
	r := report{}
	r.add(set.Redis.in)
	r.add(set.Postgres.in)
	r.add(set.PgBouncer.in)
	check(json.NewEncoder(os.Stdout).Encode(r))
	<-time.After(time.Hour) // an empty select is a deadlock where no other goroutine is left
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func childCommand(t *testing.T, mode Mode) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envChild+"="+string(mode))
	cmd.Stderr = os.Stderr
	return cmd
}

// eventually waits for something that another process does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	patience := time.After(30 * time.Second)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-patience:
			t.Fatalf("after 30 s: not %s", what)
		}
	}
}

// running lists the processes that are no zombies, as "pid command".
func running(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("ps", "-A", "-o", "pid=,stat=,args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) > 2 && !strings.HasPrefix(f[1], "Z") {
			all = append(all, f[0]+" "+strings.Join(f[2:], " "))
		}
	}
	return all
}

func pidRuns(t *testing.T, pid int) bool {
	t.Helper()
	return slices.ContainsFunc(running(t), func(p string) bool { return strings.HasPrefix(p, fmt.Sprintf("%d ", pid)) })
}
