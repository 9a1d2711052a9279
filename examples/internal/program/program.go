package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/headrace/headrace/internal/reach"
)

// Exit codes. A program that a signal ended exits with 128 and the signal's number, as a shell
// reports it.
const (
	ExitOK    = 0
	ExitError = 1
	ExitUsage = 2
)

// Program is a running program.
type Program struct {
	Name string
	// Out is the standard output. The first write that fails ends the program's context.
	Out io.Writer
	// Err is the standard error.
	Err io.Writer
	// RedisURL and PostgresURL name the stores. Empty: the environment does.
	RedisURL, PostgresURL string
}

// Say prints one line about the program's progress on standard error. The lines of a longer text,
// such as errors that were joined, are separated by semicolons.
func (p *Program) Say(format string, args ...any) {
	var parts []string
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, Clean(line))
		}
	}
	fmt.Fprintf(p.Err, "%s: %s\n", p.Name, strings.Join(parts, "; "))
}

// UsageError is an error of the command line.
type UsageError struct{ Text string }

func (e *UsageError) Error() string { return e.Text }

// endedError is the cause of a context that a signal has ended.
type endedError struct{ sig syscall.Signal }

func (e endedError) Error() string {
	return map[syscall.Signal]string{
		syscall.SIGINT: "interrupted", syscall.SIGTERM: "terminated",
		syscall.SIGHUP: "the terminal was closed", syscall.SIGPIPE: "the output was closed",
	}[e.sig]
}

// Is makes the cause of an ended context count as the end of the context.
func (e endedError) Is(target error) bool { return target == context.Canceled }

// Main runs a program and exits. SIGINT, SIGTERM, SIGHUP and a closed output end run's context; a
// second signal ends the program at once. An error of run is printed in one line, except for one
// that only reports the end of the context.
func Main(name string, run func(ctx context.Context, p *Program, args []string) error) {
	os.Exit(Run(name, os.Args[1:], run))
}

// Run is Main without the exit. It returns the exit code.
func Run(name string, args []string, run func(ctx context.Context, p *Program, args []string) error) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	p := &Program{Name: name, Err: os.Stderr}
	out := &output{file: os.Stdout, closed: cancel}
	p.Out = out
	defer p.watch(cancel)()

	err := run(ctx, p, args)
	if failed := out.failure(); failed != nil {
		err = failed // it ended run, or run has not noticed it
	}
	var ended endedError
	stopped := errors.As(context.Cause(ctx), &ended)
	switch usage := new(UsageError); {
	case stopped && (ended.sig == syscall.SIGPIPE || ended.sig == syscall.SIGHUP):
		return 128 + int(ended.sig) // there is no reader for a message
	case errors.Is(err, flag.ErrHelp):
		return ExitOK
	case errors.As(err, &usage):
		p.Say("%s", usage.Text)
		return ExitUsage
	case err == nil:
		return ExitOK
	case stopped && errors.Is(err, context.Canceled):
		p.Say("%s", ended)
		return 128 + int(ended.sig)
	}
	p.Say("%s", message(err))
	return ExitError
}

// watch cancels the context at the first signal and restores the default action for the second.
func (p *Program) watch(cancel context.CancelCauseFunc) (stop func()) {
	stops := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // under nohup a program keeps running
		stops = append(stops, syscall.SIGHUP)
	}
	signals, pipe := make(chan os.Signal, 2), make(chan os.Signal, 1)
	signal.Notify(signals, stops...)
	signal.Notify(pipe, syscall.SIGPIPE) // a write to a closed pipe then returns an error instead of ending the program
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-done:
		case sig := <-signals:
			signal.Stop(signals)
			if sig == os.Interrupt {
				p.Say("stopping; press Ctrl-C again to stop at once")
			}
			cancel(endedError{sig.(syscall.Signal)})
		}
	})
	return func() {
		signal.Stop(signals)
		close(done)
		wg.Wait()
	}
}

// output ends the program at the first write that fails: the reader of a pipe went away, the
// terminal closed, or the disk is full.
type output struct {
	file   *os.File
	closed func(cause error)
	mu     sync.Mutex
	failed error // other than that there is no reader
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.file.Write(b)
	switch {
	case err == nil:
	case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.EIO): // no reader, no terminal
		o.closed(endedError{syscall.SIGPIPE})
	default:
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.failed == nil {
			o.failed = fmt.Errorf("cannot write the output: %w", fileError(err))
		}
		o.closed(o.failed)
	}
	return n, err
}

// failure is the first write that failed for another reason than that there is no reader.
func (o *output) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failed
}

// message is the text of an error. pgx lists each address that it tried on a line of its own.
func message(err error) string {
	if errors.As(err, new(*pgconn.ConnectError)) && !errors.As(err, new(*reach.Error)) {
		return strings.Join(strings.Fields(err.Error()), " ")
	}
	return err.Error()
}
