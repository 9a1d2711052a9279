//go:build unix

package servers

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is a user whom a server runs as; nil means the one whom this program runs as.
type account struct{ uid, gid int }

// dropTo returns the first of the named users that exists, when this program runs as root: Postgres
// and PgBouncer refuse to run as root.
func dropTo(names ...string) (*account, error) {
	if !isRoot() {
		return nil, nil
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil && uid != 0 {
			return &account{uid, gid}, nil
		}
	}
	return nil, fmt.Errorf("running as root, and none of the users %v exists to run the server as", names)
}

func ownSession(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
}

func (a *account) apply(cmd *exec.Cmd) {
	if a == nil {
		return
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
}

func (a *account) own(paths ...string) error {
	if a == nil {
		return nil
	}
	for _, p := range paths {
		if err := os.Chown(p, a.uid, a.gid); err != nil {
			return err
		}
	}
	return nil
}

// tempBase is where the account's directories go: root's TMPDIR may lie below a directory that is
// closed to others.
func (a *account) tempBase() string {
	if dir := os.TempDir(); a == nil || open(dir) {
		return dir
	}
	return "/tmp"
}

// mkdir makes a directory that only the account can read.
func (a *account) mkdir(dir string) error {
	return errors.Join(os.Mkdir(dir, 0o700), a.own(dir))
}

// open reports whether every user can pass through a directory and those above it.
func open(dir string) bool {
	dir, err := filepath.Abs(dir)
	for err == nil {
		var info os.FileInfo
		if info, err = os.Stat(dir); err != nil || info.Mode().Perm()&1 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
		dir = filepath.Dir(dir)
	}
	return false
}

// killPID sends SIGKILL to a process that is not our child.
func killPID(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func signalGroup(cmd *exec.Cmd, sig os.Signal) {
	if s, ok := sig.(syscall.Signal); ok {
		syscall.Kill(-cmd.Process.Pid, s) //nolint:errcheck // it has ended meanwhile
	}
}

// exitCode is the code that a shell returns: 128 and the signal for a command that a signal ended.
func exitCode(e *exec.ExitError) int {
	if w, ok := e.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return e.ExitCode()
}

func isRoot() bool { return os.Geteuid() == 0 }
