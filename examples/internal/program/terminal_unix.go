//go:build linux || darwin || freebsd || netbsd || openbsd

package program

import (
	"os"

	"golang.org/x/sys/unix"
)

// sizeOf returns the size of a terminal, which may be 0, and whether f is one.
func sizeOf(f *os.File) (columns, rows int, terminal bool) {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, false
	}
	return int(size.Col), int(size.Row), true
}
