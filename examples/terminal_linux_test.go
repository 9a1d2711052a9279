package examples_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal of some columns with a program in it.
type terminal struct {
	cmd    *exec.Cmd
	screen *os.File // the other end; closing it closes the terminal
	out    *lines
	closed chan struct{} // when the output has been read to its end
}

func inTerminal(t *testing.T, columns int, cmd *exec.Cmd) *terminal {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	control, err := screen.SyscallConn() // Fd would make the file block, and Close hang
	if err != nil {
		t.Fatal(err)
	}
	var n int
	ioctl := func(f func(fd int) error) {
		t.Helper()
		if err := control.Control(func(fd uintptr) { err = f(int(fd)) }); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ioctl(func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0) })
	ioctl(func(fd int) error { n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN); return err })
	ioctl(func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(columns)})
	})
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term := &terminal{cmd: cmd, screen: screen, out: newLines(), closed: make(chan struct{})}
	go func() {
		_, _ = io.Copy(term.out, screen) // ends with an error when the last program has left the terminal
		close(term.closed)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		screen.Close()
		<-term.closed
	})
	return term
}

var control = regexp.MustCompile("\033\\[[0-9]*[A-Z]")

// widest is the largest number of columns that a line of the output takes.
func (term *terminal) widest() (columns int, line string) {
	for _, l := range strings.FieldsFunc(term.out.text(), func(r rune) bool { return r == '\n' || r == '\r' }) {
		if n := utf8.RuneCountInString(control.ReplaceAllString(l, "")); n > columns {
			columns, line = n, l
		}
	}
	return columns, line
}

// A progress bar that wraps floods the terminal, because each update then starts on a new line.
func TestDemoFitsItsTerminal(t *testing.T) {
	t.Parallel()
	s := own(t)
	for _, columns := range []int{60, 80, 200} {
		term := inTerminal(t, columns, command(t, "demo", s.env(), "-orders", "10000"))
		if !term.out.await("The books", term.closed) {
			t.Fatalf("the demo did not end:\n%s", term.out.text())
		}
		progress, _, _ := strings.Cut(term.out.text(), "The books")
		if n, line := term.widest(); n > columns && columns >= 80 {
			t.Errorf("%d columns: a line has %d: %s", columns, n, line)
		}
		frames := strings.Count(progress, "\r\033[K")
		for _, frame := range strings.Split(progress, "\r\033[K")[1:] {
			frame, _, _ = strings.Cut(frame, "\r")
			if n := utf8.RuneCountInString(frame); n >= columns {
				t.Errorf("%d columns: a frame has %d: %s", columns, n, frame)
			}
		}
		if frames == 0 || columns >= 80 && !strings.Contains(progress, "█") {
			t.Errorf("%d columns: no bar in %q", columns, progress)
		}
	}
}

// A terminal that is closed ends the demo, and its clean-up still runs.
func TestDemoInAClosedTerminal(t *testing.T) {
	t.Parallel()
	s := own(t)
	term := inTerminal(t, 80, command(t, "demo", s.env(), "-orders", "200000"))
	if !term.out.await("█", term.closed) {
		t.Fatalf("no bar:\n%s", term.out.text())
	}
	term.screen.Close()
	_ = term.cmd.Wait() // the exit code is checked
	if code := term.cmd.ProcessState.ExitCode(); code != 128+int(syscall.SIGHUP) && code != 128+int(syscall.SIGPIPE) {
		t.Errorf("exit code %d, want that of SIGHUP or SIGPIPE", code)
	}
	if left := s.leftovers(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// With -watch the state is shown in place.
func TestStatsWatchesInPlace(t *testing.T) {
	t.Parallel()
	s := own(t)
	if r := run(t, "producer", s.env(), "-orders", "100"); r.code != 0 {
		t.Fatalf("producer: exit code %d\n%s", r.code, r.err)
	}
	for _, columns := range []int{80, 200} {
		term := inTerminal(t, columns, command(t, "stats", s.env(), "-watch", "0.1"))
		if !term.out.await("rates", term.closed) {
			t.Fatalf("no second state:\n%s", term.out.text())
		}
		if err := term.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		_ = term.cmd.Wait() // the exit code is checked
		<-term.closed
		if code := term.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit code %d after Ctrl-C, want 0:\n%s", code, term.out.text())
		}
		if n, line := term.widest(); n > columns {
			t.Errorf("%d columns: a line has %d: %s", columns, n, line)
		}
		first, second, ok := strings.Cut(term.out.text(), "\033[J")
		up := fmt.Sprintf("\033[%dA", strings.Count(first, "\n"))
		if !ok || !strings.HasSuffix(first, up) || !strings.Contains(second, "queue") {
			t.Errorf("%d columns: the second state does not replace the first: %q", columns, term.out.text())
		}
	}
}

// A full disk is an error and not the end of a reader.
func TestAFullDiskIsReported(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	cmd := command(t, "headrace", nil, "schema", "print")
	var problem strings.Builder
	cmd.Stdout, cmd.Stderr = full, &problem
	err = cmd.Run()
	if code, want := cmd.ProcessState.ExitCode(), "headrace: cannot write the output: /dev/stdout: no space left on device\n"; code != 1 || problem.String() != want {
		t.Errorf("got %v, exit code %d and %q; want 1 and %q", err, code, problem.String(), want)
	}
}
