package servers

import "syscall"

// memoryBase returns a directory whose files are kept in memory, or "" where there is none with
// enough room: a container has 64 MB.
func memoryBase() string {
	const dir, enough = "/dev/shm", 4 << 30
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil || s.Bavail*uint64(s.Bsize) < enough {
		return ""
	}
	return dir
}
