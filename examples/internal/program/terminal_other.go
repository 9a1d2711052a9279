//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package program

import "os"

// sizeOf reports whether f is a character device. Its size is unknown.
func sizeOf(f *os.File) (columns, rows int, terminal bool) {
	info, err := f.Stat()
	return 0, 0, err == nil && info.Mode()&os.ModeCharDevice != 0
}
