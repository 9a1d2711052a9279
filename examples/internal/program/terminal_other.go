//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package program

import "os"

// columnsOf reports whether f is a character device. Its width is unknown.
func columnsOf(f *os.File) (int, bool) {
	info, err := f.Stat()
	return 0, err == nil && info.Mode()&os.ModeCharDevice != 0
}
