//go:build linux || darwin || freebsd || netbsd || openbsd

package program

import (
	"os"

	"golang.org/x/sys/unix"
)

// columnsOf returns the number of columns of a terminal, which may be 0, and whether f is one.
func columnsOf(f *os.File) (int, bool) {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	return int(size.Col), true
}
