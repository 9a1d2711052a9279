package backpressure

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/redisx"
)

// The defaults of [Config].
const (
	DefaultHigh           = 1_000_000
	DefaultReservationTTL = 30 * time.Second
	DefaultPollInterval   = 5 * time.Second
	DefaultLagInterval    = time.Second
)

// MaxSources is how many sources each of Config.Records and Config.Bytes may have.
const MaxSources = 64

// Config configures a [Gate]. At least one of Records, Bytes, a lag and HighMemory is set.
type Config struct {
	// Records are added up to the depth in records; see [SourcesOf].
	Records []Source
	// High is the bound of the depth, at which the gate closes. At Low it opens again. The defaults
	// are [DefaultHigh] and half of High.
	High, Low int64

	// Bytes are added up to the depth in bytes. HighBytes and LowBytes are its watermarks, as above.
	// HighBytes has no default.
	Bytes               []Source
	HighBytes, LowBytes int64

	// LagKey is a sorted set whose lowest score is the time of the oldest waiting record, in Unix
	// milliseconds.
	LagKey string
	// Lag returns how long the oldest record has waited. It is called at most every LagInterval
	// (default [DefaultLagInterval]).
	Lag         func(ctx context.Context) (time.Duration, error)
	LagInterval time.Duration
	// HighLag closes the gate, LowLag (default: half of HighLag) opens it again. Lag is a brake, not a
	// bound.
	HighLag, LowLag time.Duration

	// HighMemory closes the gate when the server uses this fraction of its maxmemory: 0.8 is 80 %.
	// LowMemory (default: nine tenths of HighMemory) opens it again. It is a brake like lag. The
	// server must have a maxmemory, and the user needs INFO.
	HighMemory, LowMemory float64

	// ReservationTTL is how long a producer may take from Acquire to [Reservation.Release]. The
	// default is [DefaultReservationTTL].
	ReservationTTL time.Duration
	// PollInterval is how often a waiting producer polls, in case signals are lost. The default is
	// [DefaultPollInterval].
	PollInterval time.Duration
	// Logger receives the errors of background work, such as a failed subscription to the channel.
	// nil: slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if len(c.Records) > 0 {
		c.High = cmp.Or(c.High, DefaultHigh)
		c.Low = cmp.Or(c.Low, c.High/2)
	}
	c.LowBytes = cmp.Or(c.LowBytes, c.HighBytes/2)
	c.LowLag = cmp.Or(c.LowLag, c.HighLag/2)
	c.LowMemory = cmp.Or(c.LowMemory, c.HighMemory*0.9)
	c.LagInterval = cmp.Or(c.LagInterval, DefaultLagInterval)
	c.ReservationTTL = cmp.Or(c.ReservationTTL, DefaultReservationTTL)
	c.PollInterval = cmp.Or(c.PollInterval, DefaultPollInterval)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// maxDepth keeps sums exact in Lua, whose only number is a double.
const maxDepth = 1 << 52

// minMemory is the least HighMemory. Scripts count memory in millionths of maxmemory, in which a
// smaller bound would be none.
const minMemory = 0.0001

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
}

func (c Config) validate(name string) error {
	if err := redisx.CheckName(name); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if len(c.Records) == 0 && len(c.Bytes) == 0 && c.LagKey == "" && c.Lag == nil && c.HighMemory == 0 {
		return invalid("Config.Records, Bytes, LagKey, Lag and HighMemory are empty: must set at least one")
	}
	tag := "{" + name + "}"
	if err := validateDepth(tag, "Records", "High", "Low", c.Records, c.High, c.Low); err != nil {
		return err
	}
	if err := validateDepth(tag, "Bytes", "HighBytes", "LowBytes", c.Bytes, c.HighBytes, c.LowBytes); err != nil {
		return err
	}
	if err := c.validateLag(tag); err != nil {
		return err
	}
	if c.HighMemory != 0 || c.LowMemory != 0 {
		if !(c.HighMemory >= minMemory && c.HighMemory <= 1) {
			return invalid("Config.HighMemory is %v, must be %v to 1", c.HighMemory, minMemory)
		}
		if !(c.LowMemory >= minMemory/2 && c.LowMemory < c.HighMemory) {
			return invalid("Config.LowMemory is %v, must be %v to less than HighMemory, %v", c.LowMemory, minMemory/2, c.HighMemory)
		}
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"ReservationTTL", c.ReservationTTL}, {"PollInterval", c.PollInterval}, {"LagInterval", c.LagInterval}} {
		if d.value < time.Millisecond || d.value > time.Hour {
			return invalid("Config.%s is %v, must be 1ms to 1h", d.field, d.value)
		}
	}
	return nil
}

func validateDepth(tag, field, highField, lowField string, sources []Source, high, low int64) error {
	if len(sources) > MaxSources {
		return invalid("Config.%s has %d sources, must be 0 to %d", field, len(sources), MaxSources)
	}
	for i, s := range sources {
		if (s.List == "") == (s.Hash == "") || (s.Hash == "") != (s.Field == "") {
			return invalid("Config.%s[%d] is %+v, must be a List, or a Hash and a Field", field, i, s)
		}
		if key := s.List + s.Hash; !strings.HasPrefix(key, tag) {
			return invalid("Config.%s[%d] has the key %q, must begin with %q, to be in the gate's slot", field, i, key, tag)
		}
	}
	if len(sources) == 0 {
		if high != 0 || low != 0 {
			return invalid("Config.%s is %d and %s is %d, must be 0 without Config.%s", highField, high, lowField, low, field)
		}
		return nil
	}
	if high < 2 || high > maxDepth {
		return invalid("Config.%s is %d, must be 2 to %d", highField, high, int64(maxDepth))
	}
	if low < 1 || low >= high {
		return invalid("Config.%s is %d, must be 1 to %d, below %s", lowField, low, high-1, highField)
	}
	return nil
}

func (c Config) validateLag(tag string) error {
	if c.LagKey != "" && c.Lag != nil {
		return invalid("Config.LagKey and Config.Lag are both set, must be one")
	}
	if c.LagKey != "" && !strings.HasPrefix(c.LagKey, tag) {
		return invalid("Config.LagKey is %q, must begin with %q, to be in the gate's slot", c.LagKey, tag)
	}
	if lag := c.LagKey != "" || c.Lag != nil; lag != (c.HighLag != 0) {
		return invalid("Config.HighLag is %v, must be set together with LagKey or Lag, and only then", c.HighLag)
	} else if lag && (c.HighLag < 2*time.Millisecond || c.LowLag < time.Millisecond || c.LowLag >= c.HighLag) {
		return invalid("Config.HighLag is %v and LowLag is %v, must be at least 2ms and 1ms, LowLag below HighLag", c.HighLag, c.LowLag)
	}
	return nil
}
