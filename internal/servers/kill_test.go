//go:build unix

package servers

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestKilledProgramLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, mode := range modes(t) {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			cmd := childCommand(t, mode)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var r report
			err = json.NewDecoder(out).Decode(&r)
			// Every process that the child has, those of its servers' own making too.
			before := running(t)
			if killErr := cmd.Process.Kill(); killErr != nil {
				t.Fatal(killErr)
			}
			cmd.Wait() //nolint:errcheck // it was killed
			if err != nil {
				t.Fatalf("the child did not report its servers: %v", err)
			}
			if want := 3; len(r.Dirs)+len(r.Containers) != want {
				t.Fatalf("the child reported %d directories and %d containers, want %d together", len(r.Dirs), len(r.Containers), want)
			}
			for _, dir := range r.Dirs {
				if !strings.Contains(strings.Join(before, "\n"), dir) {
					t.Errorf("no process seen that names %s: this test would not notice one that is left", dir)
				}
				eventually(t, "removed: "+dir, func() bool { return !exists(dir) && !exists(dir+".gone") })
				eventually(t, "ended: the processes of "+dir, func() bool {
					return !strings.Contains(strings.Join(running(t), "\n"), dir)
				})
			}
			for _, name := range r.Containers {
				eventually(t, "removed: container "+name, func() bool { return !strings.Contains(containers(t, "name="+name), name) })
			}
			for _, pid := range r.PIDs {
				eventually(t, "ended: process "+strconv.Itoa(pid), func() bool { return !pidRuns(t, pid) })
			}
		})
	}
}

// A server's directory, pidfile and process come into being one after the other, and a container
// takes a second. A program that is killed at any of these moments must leave nothing either.
func TestProgramKilledWhileItsServersStartLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, mode := range modes(t) {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			tmp, err := os.MkdirTemp("", "headrace-killed-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(tmp) })
			if err := os.Chmod(tmp, 0o755); err != nil { // the servers' user must reach its directory below
				t.Fatal(err)
			}
			for _, after := range []time.Duration{5, 15, 40, 100, 300, 800} {
				cmd := childCommand(t, mode)
				cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
				cmd.Stderr = nil
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				<-time.After(after * time.Millisecond) // the moment is the test's input, not something to be waited for
				watchdogs := children(t, cmd.Process.Pid)
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				cmd.Wait()                      //nolint:errcheck // it was killed
				for _, pid := range watchdogs { // and servers
					eventually(t, "ended: process "+strconv.Itoa(pid), func() bool { return !pidRuns(t, pid) })
				}
				eventually(t, "ended: the processes of a child killed after "+(after*time.Millisecond).String(), func() bool {
					return !strings.Contains(strings.Join(running(t), "\n"), tmp+"/")
				})
				eventually(t, "empty: "+tmp, func() bool {
					left, err := filepath.Glob(tmp + "/*")
					return err == nil && len(left) == 0
				})
				if mode == Docker {
					pid := strconv.Itoa(cmd.Process.Pid)
					eventually(t, "removed: the containers of a killed child", func() bool {
						return containers(t, "label="+label+"="+pid) == ""
					})
				}
			}
		})
	}
}

// children lists the processes that a process has started.
func children(t *testing.T, parent int) []int {
	t.Helper()
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for line := range strings.Lines(string(out)) {
		var pid, ppid int
		if _, err := fmt.Sscan(line, &pid, &ppid); err == nil && ppid == parent {
			pids = append(pids, pid)
		}
	}
	return pids
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func containers(t *testing.T, filter string) string {
	t.Helper()
	out, err := exec.Command("docker", "ps", "-a", "--filter", filter, "--format", "{{.Names}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
