package servers

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// local is a server that runs as a process of this machine. Its directory holds everything it has:
// data, configuration, socket, pidfile and log.
type local struct {
	name  string // for messages
	argv  []string
	dir   string
	user  *account
	quit  syscall.Signal // ends the server and its children at once, but in order
	watch *watchdog
	// again reports whether a start whose log ends with this text is worth another try.
	again func(log string) bool

	mu     sync.Mutex
	cmd    *exec.Cmd     // nil before the first start and after an end that was asked for
	exited chan struct{} // closed when the last process has ended
	end    func() error
}

// signalName is how the shell calls the signals that end servers.
var signalName = map[syscall.Signal]string{syscall.SIGKILL: "KILL", syscall.SIGQUIT: "QUIT"}

// newLocal makes the directory and its watchdog, below base or else where temporary files go. Set
// argv, then call start.
func newLocal(name, base string, quit syscall.Signal, users ...string) (*local, error) {
	acct, err := dropTo(users...)
	if err != nil {
		return nil, err
	}
	// The watchdog comes before the directory: it is never without a process that removes it.
	dir := filepath.Join(cmp.Or(base, acct.tempBase()), "headrace-"+name+"-"+newPassword()[:12])
	watch, err := startWatchdog(watchProcess, dir, signalName[quit])
	if err != nil {
		return nil, err
	}
	if err := acct.mkdir(dir); err != nil {
		watch.dismiss()
		return nil, err
	}
	l := &local{name: name, dir: dir, user: acct, quit: quit, watch: watch}
	l.end = sync.OnceValue(l.remove)
	return l, nil
}

func (l *local) path(name string) string { return filepath.Join(l.dir, name) }

// write makes a file that only the server can read.
func (l *local) write(name, text string) error {
	return errors.Join(os.WriteFile(l.path(name), []byte(text), 0o600), l.user.own(l.path(name)))
}

// command prepares a program that runs as the server's user, with a clean environment: a PGPORT or
// PGDATA of ours must not reach it.
func (l *local) command(argv ...string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = l.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.dir, "TMPDIR=" + l.dir, "LC_ALL=C", "TZ=UTC"}
	l.user.apply(cmd)
	return cmd
}

func (l *local) start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cmd != nil && !l.hasExited() {
		return fmt.Errorf("%s runs already", l.name)
	}
	log, err := os.OpenFile(l.path("log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, err := l.spawn(log, l.argv...)
	if err != nil {
		return err
	}
	exited := make(chan struct{})
	l.cmd, l.exited = cmd, exited
	go func() {
		l.wait(cmd) //nolint:errcheck // alive reports the log instead
		close(exited)
	}()
	return nil
}

// spawn starts a process as the leader of a session of its own. Its pid is on record before the
// program is there: no moment in which the watchdog could miss it.
func (l *local) spawn(out io.Writer, argv ...string) (*exec.Cmd, error) {
	cmd := l.command(append([]string{"/bin/sh", "-c", `echo $$ >"$0" && exec "$@"`, l.path("pid")}, argv...)...)
	cmd.Stdout, cmd.Stderr = out, out
	ownSession(cmd)
	return cmd, cmd.Start()
}

// wait waits for the end of a spawned process and takes its pid off the record: the number may soon
// be that of another process.
func (l *local) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	return errors.Join(err, os.Remove(l.path("pid")))
}

// run runs a program of the preparation to its end.
func (l *local) run(argv ...string) error {
	var out bytes.Buffer
	cmd, err := l.spawn(&out, argv...)
	if err == nil {
		err = l.wait(cmd)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(argv[0]), err, strings.TrimSpace(out.String()))
	}
	return nil
}

// signal sends one signal and waits for the end of the process; after the grace period it is
// killed.
func (l *local) signal(sig syscall.Signal, grace time.Duration) error {
	l.mu.Lock()
	cmd, exited := l.cmd, l.exited
	l.cmd = nil
	l.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-exited:
	case <-time.After(grace):
		cmd.Process.Kill() //nolint:errcheck // it has ended meanwhile
		<-exited
	}
	return nil
}

func (l *local) kill() error { return l.signal(syscall.SIGKILL, time.Minute) }

func (l *local) alive() error {
	l.mu.Lock()
	exited := l.hasExited()
	l.mu.Unlock()
	if !exited {
		return nil
	}
	log := l.lastWords()
	if l.again != nil && l.again(log) {
		return l.start()
	}
	return fmt.Errorf("%s ended: %s", l.name, log)
}

func (l *local) hasExited() bool {
	select {
	case <-l.exited:
		return true
	default:
		return false
	}
}

// lastWords is the end of the server's log, for an error message.
func (l *local) lastWords() string {
	text, err := os.ReadFile(l.path("log"))
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	lines = lines[max(0, len(lines)-8):]
	return strings.ToValidUTF8(string(bytes.Join(lines, []byte(" | "))), "?")
}

func (l *local) stop() error { return l.end() }

func (l *local) remove() error {
	err := l.signal(l.quit, 10*time.Second)
	err = errors.Join(err, removeAll(l.dir))
	l.watch.dismiss()
	return err
}

// removeAll tries again for a moment: the orphans of a killed Postgres may still write their last
// file.
func removeAll(dir string) error {
	for try := 1; ; try++ {
		err := os.RemoveAll(dir)
		if err == nil || try == 20 {
			return err
		}
		<-time.After(50 * time.Millisecond)
	}
}
