//go:build !linux

package pipeline

import "time"

// setUserTimeout does nothing: keepalive finds a vanished peer, later.
func setUserTimeout(uintptr, time.Duration) error { return nil }
