//go:build unix

package pipeline_test

import "syscall"

// ownCPU returns the CPU time of this program in seconds.
func ownCPU() (float64, error) {
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return 0, err
	}
	return float64(own.Utime.Nano()+own.Stime.Nano()) / 1e9, nil
}
