//go:build unix

package servers

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// someSet is a Set of which only the URLs matter.
func someSet() *Set {
	return &Set{Redis: &RedisServer{URL: "redis://r"}, Postgres: &PostgresServer{URL: "postgres://p"}}
}

func TestRunGivesTheURLsAndTheExitCode(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	code, err := someSet().Run([]string{"sh", "-c", `echo "$REDIS_URL $DATABASE_URL $MORE"; exit 7`}, &out, "MORE=more")
	if err != nil || code != 7 {
		t.Errorf("got %d, %v; want 7", code, err)
	}
	if got := strings.TrimSpace(out.String()); got != "redis://r postgres://p more" {
		t.Errorf("the command saw %q", got)
	}
	if code, err := someSet().Run([]string{"sh", "-c", "kill -TERM $$"}, &out); err != nil || code != 128+int(syscall.SIGTERM) {
		t.Errorf("a command that a signal ended: %d, %v", code, err)
	}
	if code, err := someSet().Run([]string{"/nonexistent"}, &out); err == nil || code != 127 {
		t.Errorf("a command that does not exist: %d, %v", code, err)
	}
}

// A signal for this program reaches the command and its children, of which a shell would not tell
// them.
func TestRunPassesSignalsOnToTheWholeGroup(t *testing.T) {
	ready := &waitFor{text: "ready", seen: make(chan struct{})}
	go func() {
		<-ready.seen
		syscall.Kill(os.Getpid(), syscall.SIGTERM) //nolint:errcheck // then the command never ends, and the test fails
	}()
	script := `trap 'wait; exit 9' TERM
sh -c 'trap "echo child; exit 0" TERM; echo ready; while :; do sleep 0.05; done' &
wait`
	code, err := someSet().Run([]string{"sh", "-c", script}, ready)
	if err != nil || code != 9 {
		t.Errorf("got %d, %v; want 9", code, err)
	}
	if got := ready.String(); !strings.Contains(got, "child") {
		t.Errorf("the command's child did not get the signal: %q", got)
	}
}

// waitFor is a writer that closes a channel when a text has arrived.
type waitFor struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	text string
	once sync.Once
	seen chan struct{}
}

func (w *waitFor) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(b)
	if strings.Contains(w.buf.String(), w.text) {
		w.once.Do(func() { close(w.seen) })
	}
	return len(b), nil
}

func (w *waitFor) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func TestInstallRunsAptWithoutStartingServices(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	apt, policy, log := filepath.Join(dir, "apt-get"), filepath.Join(dir, "policy"), filepath.Join(dir, "log")
	// The first installation fails, as on a machine without package lists.
	script := `#!/bin/sh
echo "$* frontend=$DEBIAN_FRONTEND policy=$(` + policy + ` 2>/dev/null; echo $?)" >>` + log + `
case $* in *update*) touch ` + dir + `/updated;; esac
[ -e ` + dir + `/updated ] || { echo "E: Unable to locate package"; exit 100; }
`
	if err := os.WriteFile(apt, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	var said []string
	err := aptInstall(t.Context(), apt, policy, []string{"redis-server", "pgbouncer"}, func(s string) { said = append(said, s) })
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 3 || !strings.Contains(lines[1], "update") {
		t.Fatalf("apt-get ran as\n%s", text)
	}
	for _, i := range []int{0, 2} {
		for _, want := range []string{"install", "-y", "redis-server pgbouncer", "frontend=noninteractive", "policy=101"} {
			if !strings.Contains(lines[i], want) {
				t.Errorf("no %q in %s", want, lines[i])
			}
		}
	}
	if exists(policy) {
		t.Error("the policy against starting services is still there")
	}
	if len(said) != 1 || !strings.Contains(said[0], "redis-server pgbouncer") {
		t.Errorf("it said %q", said)
	}

	// A policy that was there stays, and a failure shows apt-get's own words.
	if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 104\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(apt, []byte("#!/bin/sh\necho 'E: no space left'; exit 100\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	err = aptInstall(t.Context(), apt, policy, []string{"pgbouncer"}, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("got %v", err)
	}
	if text, err := os.ReadFile(policy); err != nil || !strings.Contains(string(text), "104") {
		t.Errorf("the machine's own policy is gone: %q, %v", text, err)
	}
}

func TestInstallLeavesAloneWhatNeedsNothing(t *testing.T) {
	fail := func(text string) { t.Errorf("it did something: %s", text) }
	for _, m := range []Mode{Docker, Embedded} {
		if err := Install(t.Context(), Options{Mode: m, Log: fail}); err != nil {
			t.Errorf("%s: %v", m, err)
		}
	}
	for _, env := range []string{EnvRedis, EnvPostgres, EnvPgBouncer} {
		t.Setenv(env, "given")
	}
	if err := Install(t.Context(), Options{Mode: Local, Log: fail}); err != nil {
		t.Error(err)
	}
	if err := Install(t.Context(), Options{Mode: "bad", Log: fail}); err == nil {
		t.Error("a bad mode was accepted")
	}
}
