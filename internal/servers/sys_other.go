//go:build !unix

package servers

import (
	"errors"
	"os"
	"os/exec"
)

// Elsewhere (on Windows) there are the URLs of the environment and containers. A program that is
// killed leaves its containers: the watchdog is a shell.

type account struct{}

var errNotHere = errors.New("starting programs of this machine is not supported on this system")

func dropTo(...string) (*account, error) { return nil, absent{errNotHere} }

func ownSession(*exec.Cmd) {}

func (*account) apply(*exec.Cmd) {}

func (*account) own(...string) error { return nil }

func (*account) tempBase() string { return os.TempDir() }

func (*account) mkdir(string) error { return absent{errNotHere} }

func killPID(int) error { return errNotHere }

func ownGroup(*exec.Cmd) {}

func signalGroup(cmd *exec.Cmd, _ os.Signal) { cmd.Process.Kill() }

func exitCode(e *exec.ExitError) int { return e.ExitCode() }

func isRoot() bool { return false }
