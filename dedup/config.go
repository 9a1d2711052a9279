package dedup

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// Defaults and limits of [Config].
const (
	DefaultWindow         = time.Hour
	DefaultExpectedIDs    = 100_000
	DefaultDurableTimeout = 5 * time.Second

	MinWindow      = 10 * time.Millisecond
	MaxWindow      = 400 * 24 * time.Hour
	MaxExpectedIDs = 1_000_000_000

	// MaxID is the length of the longest id, in bytes.
	MaxID = 1024
	// MaxIDs is the most ids that one call may carry. The server does nothing else during the call, which takes it
	// 1.3 to 7 µs an id.
	MaxIDs = 100_000
	// MaxName is the length of the longest name of a window, in bytes.
	MaxName = 200
)

// Config sets up a [Window]. The zero value is ready to use.
type Config struct {
	// Window is how long a claimed id stays a duplicate for others. It must exceed the age of anything that may
	// still be in flight. Every process must give the same value. A claim keeps the window that it was made with; a longer
	// one takes effect at once, a shorter one when a quarter of the old one has passed. Default one hour.
	Window time.Duration
	// Expect is roughly how many ids one window will see, and the least that it is made for: 12 bytes each are taken at
	// once. When more come, the window grows by what it has counted. A wrong value costs memory or speed, never a verdict.
	// Default 100,000.
	ExpectedIDs int64
	// Digest keeps ids of 16 bytes and more as a 128-bit digest (the first half of SHA-256). The window is then exact
	// unless two different ids share a digest: among a billion ids that has a chance of 1 in 10^20, and nobody can
	// make such a pair for less than 2^64 tries. Without it every byte of an id is kept.
	Digest bool
	// Strict waits, at each claim, until the server has it on disk. See the package comment.
	Durable bool
	// DurableTimeout bounds one wait for the disk in strict mode. Default 5 s.
	DurableTimeout time.Duration
	// AllowEviction accepts a server that evicts keys when its memory is full.
	AllowEviction bool
}

func (c Config) withDefaults(name string) (Config, error) {
	c.Window = cmp.Or(c.Window, DefaultWindow)
	c.ExpectedIDs = cmp.Or(c.ExpectedIDs, DefaultExpectedIDs)
	c.DurableTimeout = cmp.Or(c.DurableTimeout, DefaultDurableTimeout)
	switch {
	case name == "" || len(name) > MaxName:
		return c, fmt.Errorf("dedup: name has %d bytes: must be 1 to %d", len(name), MaxName)
	case strings.ContainsAny(name, "{}"):
		return c, fmt.Errorf("dedup: name %q has a brace: braces mark the hash slot of a cluster", name)
	case c.Window < MinWindow || c.Window > MaxWindow:
		return c, fmt.Errorf("dedup: Config.Window is %v: must be %v to %v", c.Window, MinWindow, MaxWindow)
	case c.Window%time.Millisecond != 0:
		return c, fmt.Errorf("dedup: Config.Window is %v: must be whole milliseconds", c.Window)
	case c.ExpectedIDs < 0 || c.ExpectedIDs > MaxExpectedIDs:
		return c, fmt.Errorf("dedup: Config.Expect is %d: must be 1 to %d", c.ExpectedIDs, MaxExpectedIDs)
	case c.DurableTimeout < time.Millisecond:
		return c, fmt.Errorf("dedup: Config.FenceTimeout is %v: must be at least 1ms", c.DurableTimeout)
	}
	return c, nil
}
