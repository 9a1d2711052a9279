package dedup

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"

	"github.com/headrace/headrace/internal/redisx"
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
	// MaxIDs is the largest number of ids in one call.
	MaxIDs = 100_000
	// MaxName is the length of the longest name, in bytes.
	MaxName = redisx.MaxName
)

// Eviction is what New does with a server whose maxmemory-policy is not noeviction. Such a server
// may evict claims when its memory is full, and then duplicates pass.
type Eviction uint8

// The choices of Config.Eviction.
const (
	EvictionWarn   Eviction = iota // log a warning
	EvictionRefuse                 // New returns ErrEviction
	EvictionIgnore                 // do not check
)

// Config configures a [Deduplicator]. The zero value is ready to use.
type Config struct {
	// Window is how long a claim makes further copies of its id duplicates. It must exceed the age of
	// anything that may still be in flight. Every process must use the same value. A claim keeps the
	// window it was made with: a longer one takes effect at once, a shorter one after a quarter of the
	// old one. Default 1 hour.
	Window time.Duration
	// ExpectedIDs is roughly how many ids one window will see. It is also the smallest size of a
	// table: 12 bytes per id are allocated before the first claim. If more ids arrive, the tables grow
	// with the measured number. A wrong value costs memory or speed, and never changes a verdict.
	// Default 100,000.
	ExpectedIDs int64
	// Digest stores ids of 16 bytes and more as a 128-bit digest (the first half of SHA-256). The
	// window is then exact unless two different ids share a digest. Among a billion ids the
	// probability of that is 1 in 10^20, and finding such a pair takes 2^64 tries. Without Digest
	// every byte of an id is stored.
	Digest bool
	// Durable makes each claim wait until the server has it on disk. See the package comment.
	Durable bool
	// DurableTimeout bounds one wait for the disk: 1 ms to 1 h. After three of them, Claim returns
	// ErrNotDurable. Default 5 s.
	DurableTimeout time.Duration
	// Eviction is what New does with a server that may evict claims. Default EvictionWarn.
	Eviction Eviction
	// Logger receives the warning of EvictionWarn. Default slog.Default().
	Logger *slog.Logger
}

// configErr returns an ErrConfig that names a field, its value and the allowed range.
func configErr(field string, value any, allowed string, args ...any) error {
	return fmt.Errorf("%w: Config.%s is %v, must be %s", ErrConfig, field, value, fmt.Sprintf(allowed, args...))
}

func (c Config) withDefaults(name string) (Config, error) {
	c.Window = cmp.Or(c.Window, DefaultWindow)
	c.ExpectedIDs = cmp.Or(c.ExpectedIDs, DefaultExpectedIDs)
	c.DurableTimeout = cmp.Or(c.DurableTimeout, DefaultDurableTimeout)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if err := redisx.CheckName(name); err != nil {
		return c, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	switch {
	case c.Window < MinWindow || c.Window > MaxWindow:
		return c, configErr("Window", c.Window, "%v to %v", MinWindow, MaxWindow)
	case c.Window%time.Millisecond != 0:
		return c, configErr("Window", c.Window, "whole milliseconds")
	case c.ExpectedIDs < 0 || c.ExpectedIDs > MaxExpectedIDs:
		return c, configErr("ExpectedIDs", c.ExpectedIDs, "1 to %d", MaxExpectedIDs)
	case c.DurableTimeout < time.Millisecond || c.DurableTimeout > time.Hour:
		return c, configErr("DurableTimeout", c.DurableTimeout, "%v to %v", time.Millisecond, time.Hour)
	case c.Eviction > EvictionIgnore:
		return c, configErr("Eviction", c.Eviction, "%d to %d", EvictionWarn, EvictionIgnore)
	}
	return c, nil
}
