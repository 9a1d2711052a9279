package servers

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// Run runs a command that finds the servers in its environment, and returns its exit code. The
// command and its children get a process group of their own, to which signals for this program are
// passed on: so `go test` and the test binaries that it runs end together, before their servers do.
// The command has no standard input (a process group in the background must not read from a
// terminal).
func (s *Set) Run(argv []string, stdout io.Writer, env ...string) (code int, err error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(append(os.Environ(), s.Env()...), env...)
	cmd.Stdout, cmd.Stderr = stdout, os.Stderr
	ownGroup(cmd)

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 127, err
	}
	ended := make(chan struct{})
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		for {
			select {
			case sig := <-signals:
				signalGroup(cmd, sig)
			case <-ended:
				return
			}
		}
	}()
	err = cmd.Wait()
	close(ended)
	<-passed
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exitCode(exit), nil
	}
	return 0, err
}
